/* base.h - the base model that a person names: a GGUF file, or a Hugging Face folder.
 *
 *   DATA > TOKENS > LOSS pair > byte > ledger > gossip > replay > weights
 *
 * A folder holds config.json, tokenizer.json and the weights, as model.safetensors or as the shards that
 * model.safetensors.index.json names; tokenizer_config.json and chat_template.jinja are read where they are there.
 * Everything is mapped and checked at open, so that what is wrong with a model shows before anything is packed.
 */
#ifndef PEERD_BASE_H
#define PEERD_BASE_H

#include "peerd/model.h"
#include "peerd/safetensors.h"

typedef struct pd_base pd_base;

/* Open and check a file or a folder.  gives *out; pd_base_close takes it (NULL is fine).
 * Errors: PD_ENOENT (the path, or a file that the folder needs: named), PD_EIO; those of pd_gguf_open or
 *         pd_safetensors_open; PD_EFORMAT (the index and its shards do not agree, config.json is no JSON), PD_EUNSUPPORTED
 *         (weights as pickled tensors only), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_base_open(const char *path, pd_base **out);
void pd_base_close(pd_base *b);

/* A folder's tensors, whose file k (pd_safetensors_file) is called pd_base_shard(b, k), k < pd_base_shards(b); of a GGUF
 * file NULL and 0.  Borrowed until the close. */
const pd_safetensors *pd_base_tensors(const pd_base *b);
size_t pd_base_shards(const pd_base *b);
const char *pd_base_shard(const pd_base *b, size_t k);

/* Is this folder one of a model?  (It has a config.json.) */
bool pd_base_is_folder(const char *path);

/* Its tokenizer, which keeps nothing of the base.  gives *out.  Errors: as pd_tokenizer_open and
 * pd_tokenizer_open_json, with the file's name. */
PD_CHECKED pd_err pd_base_tokenizer(const pd_base *b, pd_tokenizer **out);

/* Its weights packed, which keep nothing of the base.  gives *out.  Errors: as pd_model_open, with the
 * base's name; of a folder also: a class or setting that is not done, a tensor that is missing, of another shape or of a dtype that is not done. */
PD_CHECKED pd_err pd_base_model(const pd_base *b, const pd_model_opts *opts, pd_model **out);

/* Has the embedding a row for every token?  Errors: PD_EFORMAT (it has not; with the base's name). */
PD_CHECKED pd_err pd_base_check_vocab(const pd_base *b, const pd_tokenizer *t, const pd_model *m);

/* Digest of the base, for the manifest.  Reads all of it.  Of a GGUF file pd_gguf_digest; of a folder BLAKE2b-256 of
 *
 *   "peerd.folder.v1" | files:u32 | per file in order of name:  n:u32 name | size:u64 | BLAKE2b-256 of its bytes
 *
 * over config.json, tokenizer.json and the files of the weights: other weights, vocabulary or numbers are another
 * digest, and so is the same model cut into other shards.  What else lies in the folder does not count (the tokenizer's
 * digest covers the tokens that tokenizer_config.json names).
 */
void pd_base_digest(const pd_base *b, uint8_t out[32]);

#endif

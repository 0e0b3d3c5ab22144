/* export_merged.h - base and adapter as one model's file, for engines that know nothing of either.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > replay > WEIGHTS
 *
 * Every target matrix becomes
 *
 *   W' = round(W + up^T down)      W dequantised, the sum in float32, rounded once to `type`
 *
 * and what is no target stays as the base has it.  The same base, coordinates and type give the
 * same bytes on every machine (float32 + and x in one order, contraction off).  Rows go through
 * memory a few hundred at a time. The file stands under a temporary name until it is whole, and
 * never replaces one.
 */
#ifndef PD_EXPORT_MERGED_H
#define PD_EXPORT_MERGED_H

#include "peerd/gguf.h"
#include "peerd/space.h"

enum { PD_MERGED_AUTO = INT32_MAX }; /* F32 and BF16 where W is, else F16 */

/* What is merged. */
typedef struct pd_merged {
    const char *base; /* the run's model, opened anew and its digest compared */
    const pd_model_info *info;
    const pd_manifest *manifest;
    const pd_view *view; /* set to the coordinates to be exported */
    uint32_t type;       /* PD_GGML_F32, F16 or BF16, or PD_MERGED_AUTO */
} pd_merged;

/* Write a GGUF file: keys and tensors of the base in their order, general.file_type left out where
 * a tensor's type is another now (readers count the types where it is missing).
 *
 * Errors: PD_EEXIST (path is there), PD_EMISMATCH (base is not the run's model any more),
 * PD_ENUMERIC (a merged weight is beyond F16), PD_EUNSUPPORTED (a target is no tensor of its own in
 * the base; the base is a folder), PD_ENOENT, PD_EIO, PD_EFULL, PD_ENOMEM.
 */
PD_CHECKED pd_err pd_export_merged_gguf(const char *path, const pd_merged *m);

/* Write a Hugging Face folder.
 *
 * Of a GGUF file, of the Llama family: DIR/model.safetensors, README.md (which says what is
 * missing: a tokenizer), config.json, in this order, so that a folder with a config is whole.  Rows
 * of q and k go back from the pairs (2i, 2i + 1) to the halves (i, i + n/2), as in export.h.  A
 * quantised tensor that is no target becomes `type` too; a float one stays.
 *
 * Of a folder, of Llama's, Mistral's, Qwen2's and Qwen3's classes: the same shards with the same
 * tensors, their index, the tokenizer's files copied, and config.json last, which names `type`
 * where one was asked for.
 *
 * Errors: as above, PD_EEXIST also where DIR holds one of these files, and PD_EUNSUPPORTED (another
 * architecture; of a GGUF file also rotation of a part of the head, a tensor that Hugging Face's
 * Llama has not).
 * Source: transformers, models/llama/configuration_llama.py (keys) and modeling_llama.py (names)
 */
PD_CHECKED pd_err pd_export_merged_hf(const char *dir, const pd_merged *m);

#endif

/* export.h - an adapter as files that other engines read: a PEFT folder, a GGUF adapter.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > replay > WEIGHTS
 *
 * Both formats hold a LoRA [1] of the view's whole addition, start adapter included, as it is
 * applied here:
 *
 *   dW = (alpha / r) B A      A = down (r, in),  B = up^T (out, r),  alpha = r, so the factor is 1
 *
 * in float32 and nothing rounded, so that another engine differs only by its own arithmetic.  A
 * GGUF file of the architecture llama keeps the rows of q and k in pairs that RoPE turns together
 * (2i, 2i + 1), Hugging Face and GGUF's other architectures keep the two halves of a head apart
 * (i, i + n/2): B of q and k is reordered where the run's own base has them the other way.
 *
 * A file is replaced as a whole or not at all.  It is built in memory: as large again as the view.
 *
 * [1] Hu et al. 2021, LoRA, 2106.09685
 */
#ifndef PD_EXPORT_H
#define PD_EXPORT_H

#include "peerd/space.h"

/* Write DIR/adapter_model.safetensors and DIR/adapter_config.json.  DIR is made if it is not there.
 *
 *   base_name  in  what PEFT shall load the adapter onto: a model's name or folder
 *   v          in  a view of the run's space, set to the coordinates to be exported
 *
 * Errors: PD_ENOENT (no folder to make DIR in), PD_EEXIST (DIR is a file), PD_EIO, PD_EFULL,
 * PD_ENOMEM, PD_EUNSUPPORTED (a family whose names there are not known here: all but llama, qwen2
 * and qwen3).
 */
PD_CHECKED pd_err pd_export_peft(const char *dir, const char *base_name, const pd_model_info *info,
                                 const pd_manifest *m, const pd_view *v);

/* Write a GGUF adapter for llama.cpp (--lora PATH), to be used with the model file of the run or
 * another quantisation of the same model.  Errors: PD_ENOENT, PD_EIO, PD_EFULL, PD_ENOMEM,
 * PD_EUNSUPPORTED (opt, which GGUF has not; q, k or v of gpt2 and gptneox, where they are one
 * matrix).
 */
PD_CHECKED pd_err pd_export_gguf(const char *path, const char *base_name, const pd_model_info *info,
                                 const pd_manifest *m, const pd_view *v);

/* What the matrices are called: "self_attn.q_proj" in a layer of Hugging Face's, "attn_q" in
 * GGUF's. */
extern const char *const pd_export_hf_names[PD_TARGETS];
extern const char *const pd_export_gguf_names[PD_TARGETS];

/* Row of the GGUF file's W that becomes row `o` of Hugging Face's, within heads of `width`. */
uint32_t pd_export_paired_row(uint32_t o, uint32_t width);

#endif

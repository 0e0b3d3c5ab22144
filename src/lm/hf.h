/* hf.h - a Hugging Face folder's model: config.json (hf_config.c), tensors by role (weights_hf.c).
 * Private to src/lm. */
#ifndef PD_LM_HF_H
#define PD_LM_HF_H

#include "json.h"
#include "peerd/safetensors.h"
#include "peerd/weights.h"

/* How the files of a class name and lay their tensors. */
typedef enum hf_layout { HF_LLAMA, HF_GPT2, HF_NEOX, HF_OPT } hf_layout;

/* Description of the model from its config.json, checked by pd_info_check; the name is not in it.
 * Errors: PD_EUNSUPPORTED (a class, or a setting of it, that is not done; named), PD_EFORMAT (a key
 * missing or of another kind). */
PD_CHECKED pd_err hf_config_read(const cJSON *config, pd_model_info *info, hf_layout *layout);

/* Description and tensors of a folder: its config and its safetensors, both borrowed, `tensors`
 * until the close. gives *out.  Errors: those of hf_config_read; PD_EUNSUPPORTED (a tensor without
 * a role, a dtype that is not done; named), PD_EFORMAT (a tensor missing, another shape than the
 * config's numbers ask for), PD_ENOMEM. */
PD_CHECKED pd_err hf_weights_open(const cJSON *config, const pd_safetensors *tensors,
                                  pd_weights **out);

#endif

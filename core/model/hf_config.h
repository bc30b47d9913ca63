/* config.json and generation_config.json of a Hugging Face checkpoint -> sli_model_desc.
 *
 * Missing keys take the defaults of the reference's configuration classes. A key that would change the result and is
 * not implemented is refused by its name; keys that only concern training or other programs are not looked at. */
#ifndef SLUICE_CORE_HF_CONFIG_H
#define SLUICE_CORE_HF_CONFIG_H

#include "base/json.h"
#include "model/model_desc.h"

/* Fills *out (freed by sli_model_desc_free; all-zero on failure) from a parsed config.json, and from a parsed
 * generation_config.json unless that is NULL. SL_E_DATA, SL_E_UNIMPLEMENTED (a feature, by key), SL_E_NO_MEMORY. */
sl_status sli_hf_config_read(const sli_json *config, const sli_json *generation, sli_model_desc *out, sl_error *err);

/* The same from text in memory; `generation` may be NULL. `config_name` and `generation_name` stand in messages. */
sl_status sli_hf_config_parse(const char *config_name, const char *config, size_t config_bytes,
                              const char *generation_name, const char *generation, size_t generation_bytes,
                              sli_model_desc *out, sl_error *err);

/* The same from dir/config.json and, where it exists, dir/generation_config.json. */
sl_status sli_hf_config_load(const char *dir, sli_model_desc *out, sl_error *err);

#endif

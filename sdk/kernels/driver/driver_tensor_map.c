/* Tensor maps for bulk copies. See cuda_driver.h. */
#include "cuda_driver.h"

#include <string.h>

#include "sl_tensor.h"

static const struct {
    sl_dtype dtype;
    CUtensorMapDataType type;
} types[] = {
    {SL_F32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32},   {SL_F16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16},
    {SL_BF16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16}, {SL_F64, CU_TENSOR_MAP_DATA_TYPE_FLOAT64},
    {SL_I32, CU_TENSOR_MAP_DATA_TYPE_INT32},     {SL_U32, CU_TENSOR_MAP_DATA_TYPE_UINT32},
    {SL_I64, CU_TENSOR_MAP_DATA_TYPE_INT64},     {SL_U64, CU_TENSOR_MAP_DATA_TYPE_UINT64},
    {SL_U16, CU_TENSOR_MAP_DATA_TYPE_UINT16},    {SL_U8, CU_TENSOR_MAP_DATA_TYPE_UINT8},
    {SL_I8, CU_TENSOR_MAP_DATA_TYPE_UINT8},      {SL_F8_E4M3, CU_TENSOR_MAP_DATA_TYPE_UINT8},
    {SL_F8_E5M2, CU_TENSOR_MAP_DATA_TYPE_UINT8},
};

static const struct {
    uint32_t bytes;
    CUtensorMapSwizzle swizzle;
} swizzles[] = {{0, CU_TENSOR_MAP_SWIZZLE_NONE},
                {32, CU_TENSOR_MAP_SWIZZLE_32B},
                {64, CU_TENSOR_MAP_SWIZZLE_64B},
                {128, CU_TENSOR_MAP_SWIZZLE_128B}};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* The driver counts dimensions from the innermost, tensors and boxes from the outermost. */
sl_status slk_driver_tensor_map(const sl_host *host, const sl_lane *lane, const sl_tensor *tensor, const uint32_t *box,
                                uint32_t swizzle, sl_tensor_map *out, sl_error *err) {
    (void)host;
    slk_driver *d = lane->impl->driver;
    size_t type = 0, mode = 0;
    while (type < COUNT(types) && types[type].dtype != tensor->dtype)
        type++;
    while (mode < COUNT(swizzles) && swizzles[mode].bytes != swizzle)
        mode++;
    if (type == COUNT(types))
        return slk_driver_refuse(d, SL_E_UNIMPLEMENTED, err, "tensor map: no such map of %s",
                                 sl_dtype_name(tensor->dtype));
    if (mode == COUNT(swizzles))
        return slk_driver_refuse(d, SL_E_INVALID, err, "tensor map: a swizzle of %u bytes, expected 0, 32, 64 or 128",
                                 swizzle);
    const uint32_t rank = tensor->ndim;
    if (rank == 0 || rank > SL_MAX_DIMS || tensor->stride[rank - 1] != 1)
        return slk_driver_refuse(d, SL_E_INVALID, err, "tensor map: expected 1 to %d dimensions, the last without gaps",
                                 SL_MAX_DIMS);
    const int64_t size = sl_dtype_bits(tensor->dtype) / 8;
    cuuint64_t shape[SL_MAX_DIMS], strides[SL_MAX_DIMS];
    cuuint32_t extent[SL_MAX_DIMS], step[SL_MAX_DIMS];
    for (uint32_t i = 0; i < rank; i++) {
        const uint32_t from = rank - 1 - i;
        shape[i] = (cuuint64_t)tensor->shape[from];
        extent[i] = box[from];
        step[i] = 1;
        if (i > 0) {
            strides[i - 1] = (cuuint64_t)(tensor->stride[from] * size);
            if (strides[i - 1] % 16 != 0)
                return slk_driver_refuse(
                    d, SL_E_INVALID, err,
                    "tensor map: dimension %u has a stride of %lld bytes, expected a multiple of 16", from,
                    (long long)strides[i - 1]);
        }
    }
    CUtensorMap map;
    slk_driver_enter(d);
    SL_TRY(slk_driver_check(lane->impl,
                            d->cu.cuTensorMapEncodeTiled(&map, types[type].type, rank, tensor->data, shape, strides,
                                                         extent, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                                         swizzles[mode].swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                            err, "a tensor map of %u dimensions, the last of %lld %s, box %u", rank,
                            (long long)tensor->shape[rank - 1], sl_dtype_name(tensor->dtype), box[rank - 1]));
    memset(out, 0, sizeof *out);
    out->struct_size = SL_SIZE(sl_tensor_map);
    memcpy(out->opaque, &map, sizeof out->opaque);
    return SL_OK;
}

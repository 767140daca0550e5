/* Both float types at one instruction set: given FASTNN_LEVEL, FASTNN_VECTOR_BYTES (0: no vectors) and ROWS by gemm.h. */

#define T float
#define NAME FASTNN_LEVEL_F32
#if FASTNN_VECTOR_BYTES
#define LANES (FASTNN_VECTOR_BYTES / 4)
#else
#define LANES 1
#endif
#include "gemm_tile.h"
static const fastnn_tile_f32 FASTNN_PASTE(fastnn_tile_f32, FASTNN_LEVEL) = {LANES, ROWS, NAME(panel), NAME(pack), NAME(dots), NAME(gather)};
#undef T
#undef NAME
#undef LANES

#define T double
#define NAME FASTNN_LEVEL_F64
#if FASTNN_VECTOR_BYTES
#define LANES (FASTNN_VECTOR_BYTES / 8)
#else
#define LANES 1
#endif
#include "gemm_tile.h"
static const fastnn_tile_f64 FASTNN_PASTE(fastnn_tile_f64, FASTNN_LEVEL) = {LANES, ROWS, NAME(panel), NAME(pack), NAME(dots), NAME(gather)};
#undef T
#undef NAME
#undef LANES

#undef FASTNN_LEVEL
#undef FASTNN_VECTOR_BYTES
#undef ROWS

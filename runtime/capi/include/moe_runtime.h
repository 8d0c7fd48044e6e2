// The moe runtime in C: loads a bundle and runs it on virtual or NVIDIA GPUs. Link with -lmoe_capi.
//
// Made from runtime/capi/src/abi by a test: do not edit. Every structure that has a struct_size begins with it; set it to sizeof.
// Every function may be called from any thread; calls of one communicator take turns.

#ifndef MOE_RUNTIME_H
#define MOE_RUNTIME_H

#include <stdint.h>

// What a call answers. Details: `moe_error_message`, `moe_error_code`, `moe_error_json`.
enum moe_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It has done what it says.
  MOE_STATUS_OK = 0,
  // An argument was refused, and nothing was launched: pass another.
  MOE_STATUS_ARGUMENT = 1,
  // A kernel refused numbers of a tensor, such as a pick that is no expert; the communicator has stopped.
  MOE_STATUS_INPUT = 2,
  // The file is no bundle that this library can use.
  MOE_STATUS_BUNDLE = 3,
  // A rank did not come before the deadline, or cannot; the communicator has stopped.
  MOE_STATUS_DEADLINE = 4,
  // An error came before: `moe_world_recover`.
  MOE_STATUS_STOPPED = 5,
  // The device cannot, or a kernel did what it must not.
  MOE_STATUS_DEVICE = 6,
  // A bug of this library.
  MOE_STATUS_BUG = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum moe_status moe_status;
#else
typedef uint32_t moe_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a tensor consists of.
enum moe_number
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // 32-bit integers.
  MOE_NUMBER_I32 = 1,
  // IEEE binary32.
  MOE_NUMBER_F32 = 2,
  // bfloat16.
  MOE_NUMBER_BF16 = 3,
  // IEEE binary16.
  MOE_NUMBER_F16 = 4,
  // OCP fp8 E4M3.
  MOE_NUMBER_FP8_E4M3 = 5,
  // Powers of two in a byte: scales.
  MOE_NUMBER_UE8M0 = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum moe_number moe_number;
#else
typedef uint32_t moe_number;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An array of a handle.
enum moe_array
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // i32 `[local experts]`: rows of each local expert, without padding.
  MOE_ARRAY_EXPERT_COUNTS = 1,
  // i32 `[local experts + 1]`: first row of each local expert, and the number of rows. Not of layout `rank_major`.
  MOE_ARRAY_EXPERT_OFFSETS = 2,
  // i32 `[rows, top_k]`: local experts of a row, -1 for none. Of layout `rank_major` only.
  MOE_ARRAY_ROW_PICKS = 3,
  // f32 `[rows, weights per row]`: weights of a row. Where the experts weigh only.
  MOE_ARRAY_ROW_WEIGHTS = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum moe_array moe_array;
#else
typedef uint32_t moe_array;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Which device.
enum moe_device
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Virtual GPUs in this process: tensors lie in its memory, and every call has finished when it returns.
  MOE_DEVICE_VIRTUAL = 1,
  // GPUs of this machine: tensors lie in their memory, and calls return when everything is launched.
  MOE_DEVICE_CUDA = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum moe_device moe_device;
#else
typedef uint32_t moe_device;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A bundle that was read.
typedef struct moe_bundle {
  // 0 is none.
  uint64_t id;
} moe_bundle;

// What the numbers of a bundle are.
typedef struct moe_plan {
  // `sizeof(moe_plan)`.
  uint32_t struct_size;
  // Ranks of the world.
  uint32_t ranks;
  // Experts of all ranks.
  uint32_t experts;
  // Experts of the rank that has most.
  uint32_t local_experts;
  // Picks of a token.
  uint32_t top_k;
  // Elements of a row.
  uint32_t hidden;
  // Tokens of a rank and call at most.
  uint32_t most_tokens;
  // Width of the logits.
  uint32_t gate_width;
  // Weights of a row of the experts' input.
  uint32_t weights_per_row;
  // 1 if combine multiplies by the weights, 0 if the experts do.
  uint32_t combine_weighs;
  // 1 if a row belongs to one expert, 0 if it has picks.
  uint32_t by_expert;
  // A `moe_number`: of the tokens.
  uint32_t token_number;
  // A `moe_number`: of the experts' input.
  uint32_t input_number;
  // A `moe_number`: of its scales; 0 without.
  uint32_t scale_number;
  // A `moe_number`: of the experts' output and of the result.
  uint32_t output_number;
  // Not used.
  uint32_t reserved;
  // Rows of the experts' input for which there must be room on each rank.
  uint64_t most_rows;
  // Bytes of a row of tokens.
  uint64_t token_row_bytes;
  // Bytes of a row of the experts' input.
  uint64_t input_row_bytes;
  // Bytes of the scales of a row.
  uint64_t scale_row_bytes;
  // Bytes of a row of the experts' output.
  uint64_t output_row_bytes;
} moe_plan;

// What a world is made of.
typedef struct moe_world_options {
  // `sizeof(moe_world_options)`.
  uint32_t struct_size;
  // A `moe_device`.
  uint32_t device;
  // Of virtual GPUs: which schedule their threads have; 0 is the plain one.
  uint64_t seed;
} moe_world_options;

// All ranks of a bundle.
typedef struct moe_world {
  // 0 is none.
  uint64_t id;
} moe_world;

// How this process joins a world whose other ranks are in other processes.
typedef struct moe_join_options {
  // `sizeof(moe_join_options)`.
  uint32_t struct_size;
  // A `moe_device`.
  uint32_t device;
  // Ranks of each process; 0 for one.
  uint32_t ranks_per_process;
  // Of CUDA: the driver's number of the GPU of this process.
  uint32_t gpu;
  // How long other processes may take to come, in nanoseconds; 0 for a minute.
  uint64_t patience_ns;
} moe_join_options;

// Which ranks a communicator has.
typedef struct moe_communicator_options {
  // `sizeof(moe_communicator_options)`.
  uint32_t struct_size;
  // The first of its ranks.
  uint32_t first_rank;
  // How many; 0 for all of this process that follow.
  uint32_t rank_count;
  // Not used.
  uint32_t reserved;
  // How long a kernel may wait for a rank, in nanoseconds; 0 for ever.
  uint64_t deadline_ns;
} moe_communicator_options;

// Some ranks of a world, which make their calls together.
typedef struct moe_communicator {
  // 0 is none.
  uint64_t id;
} moe_communicator;

// A routing that has been dispatched.
typedef struct moe_handle {
  // 0 is none.
  uint64_t id;
} moe_handle;

// Calls that were captured.
typedef struct moe_capture {
  // 0 is none.
  uint64_t id;
} moe_capture;

// The part of a tensor that is on one rank.
typedef struct moe_part {
  // Where it begins: in the memory of this process on virtual GPUs, else of the rank's GPU, aligned to 16 bytes.
  void *address;
  // Rows, one behind the other.
  uint64_t rows;
} moe_part;

// A tensor: a part for each rank of the communicator.
typedef struct moe_tensor {
  // `sizeof(moe_tensor)`.
  uint32_t struct_size;
  // A `moe_number`.
  uint32_t number;
  // Bytes of a row.
  uint64_t row_bytes;
  // One for each rank.
  const struct moe_part *parts;
  // How many.
  uint64_t part_count;
} moe_tensor;

// A parameter of the gate: a tensor whose rows are numbers.
typedef struct moe_parameter {
  // Its name in the gate.
  const char *name;
  // Its numbers on each rank.
  struct moe_tensor numbers;
} moe_parameter;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong in the last call of this thread that failed, as a sentence: empty before the first, never `NULL`. It is there until the
// next that fails.
const char *moe_error_message(void);

// The same as a word to compare with: `rows`, `deadline`, `foreign`, …
const char *moe_error_code(void);

// The same as JSON: `{"code": …, "fields": {…}, "message": …}`.
const char *moe_error_json(void);

// Reads a bundle, as `moec build` writes it.
//
// # Safety
// Pointers are `NULL` or what their types say; so of every function here.
moe_status moe_bundle_open(const char *path, struct moe_bundle *bundle);

// Says what the numbers of a bundle are. Set `struct_size` before.
//
// # Safety
// See `moe_bundle_open`.
moe_status moe_bundle_plan(struct moe_bundle bundle, struct moe_plan *plan);

// Everything that a bundle says about itself, as JSON, with a zero at its end. `needed` says how many bytes that takes; nothing is written
// where there are fewer.
//
// # Safety
// See `moe_bundle_open`; `json` has `bytes` bytes.
moe_status moe_bundle_json(struct moe_bundle bundle,
                           char *json,
                           uint64_t bytes,
                           uint64_t *needed);

// Makes all ranks of a bundle in this process and loads its kernels.
//
// # Safety
// See `moe_bundle_open`.
moe_status moe_world_create(struct moe_bundle bundle, const struct moe_world_options *options, struct moe_world *world);

// Makes a world with the processes that torchrun, or whoever sets its variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`,
// `MASTER_PORT`), has started on this machine: all of them call it together. Virtual GPUs are those of the node that `MOE_NODE` names, or that
// local rank 0 starts with `$MOEC serve`.
//
// # Safety
// See `moe_bundle_open`.
moe_status moe_world_join(struct moe_bundle bundle,
                          const struct moe_join_options *options,
                          struct moe_world *world);

// Says which ranks of a world are of this process: the first, and how many.
//
// # Safety
// See `moe_bundle_open`.
moe_status moe_world_ranks(struct moe_world world, uint32_t *first_rank, uint32_t *rank_count);

// Makes a stopped world usable again. None of its communicators may be in a call; handles from before are refused after it.
moe_status moe_world_recover(struct moe_world world);

// Gives some ranks of a world to a communicator.
//
// # Safety
// See `moe_bundle_open`.
moe_status moe_communicator_create(struct moe_world world,
                                   const struct moe_communicator_options *options,
                                   struct moe_communicator *communicator);

// Forgets a bundle; worlds that were made of it stay.
moe_status moe_bundle_destroy(struct moe_bundle bundle);

// Forgets a world; it goes with its last communicator.
moe_status moe_world_destroy(struct moe_world world);

// Forgets a communicator; its ranks are free for another.
moe_status moe_communicator_destroy(struct moe_communicator communicator);

// Forgets a handle and frees its arrays, after what was launched with them.
moe_status moe_handle_destroy(struct moe_handle handle);

// Forgets captured calls.
moe_status moe_capture_destroy(struct moe_capture capture);

// Chooses experts and weights of every token: logits f32 `[tokens, gate width]` to indices i32 and weights f32 `[tokens, top_k]`.
//
// # Safety
// Pointers are `NULL` or what their types say, and so are the parts of tensors; so of every function here.
moe_status moe_gate(struct moe_communicator communicator,
                    const struct moe_tensor *logits,
                    const struct moe_parameter *gate_parameters,
                    uint64_t parameter_count,
                    const struct moe_tensor *indices,
                    const struct moe_tensor *weights);

// Gradients of the logits, given those of the weights.
//
// # Safety
// See `moe_gate`.
moe_status moe_gate_backward(struct moe_communicator communicator,
                             const struct moe_tensor *logits,
                             const struct moe_parameter *gate_parameters,
                             uint64_t parameter_count,
                             const struct moe_tensor *of_weights,
                             const struct moe_tensor *of_logits);

// Sends every token `[tokens, hidden]` to the ranks of its experts. Indices ascend in each row, −1 for none. The experts' input has room for
// `moe_plan.most_rows` rows, and scales where the format has some, else `NULL`. The handle is to be destroyed.
//
// # Safety
// See `moe_gate`.
moe_status moe_dispatch(struct moe_communicator communicator,
                        const struct moe_tensor *tokens,
                        const struct moe_tensor *indices,
                        const struct moe_tensor *weights,
                        const struct moe_tensor *input,
                        const struct moe_tensor *scales,
                        struct moe_handle *handle);

// Sends other tokens the way of an earlier dispatch.
//
// # Safety
// See `moe_gate`.
moe_status moe_dispatch_cached(struct moe_communicator communicator,
                               struct moe_handle handle,
                               const struct moe_tensor *tokens,
                               const struct moe_tensor *input,
                               const struct moe_tensor *scales);

// Brings the experts' output `[most_rows, hidden]` back and sums it for every token: `[tokens, hidden]`.
//
// # Safety
// See `moe_gate`.
moe_status moe_combine(struct moe_communicator communicator,
                       struct moe_handle handle,
                       const struct moe_tensor *output,
                       const struct moe_tensor *combined);

// Gradients of the tokens, given those of the experts' input, which are in the format of the experts' output.
//
// # Safety
// See `moe_gate`.
moe_status moe_dispatch_backward(struct moe_communicator communicator,
                                 struct moe_handle handle,
                                 const struct moe_tensor *of_input,
                                 const struct moe_tensor *of_tokens);

// Gradients of the experts' output and, where combine weighs, of the weights `[tokens, top_k]`, else `NULL`.
//
// # Safety
// See `moe_gate`.
moe_status moe_combine_backward(struct moe_communicator communicator,
                                struct moe_handle handle,
                                const struct moe_tensor *output,
                                const struct moe_tensor *of_combined,
                                const struct moe_tensor *of_output,
                                const struct moe_tensor *of_weights);

// Gradients of the weights `[tokens, top_k]` where the experts weigh, given those of the weights of the rows.
//
// # Safety
// See `moe_gate`.
moe_status moe_weights_backward(struct moe_communicator communicator,
                                struct moe_handle handle,
                                const struct moe_tensor *of_rows,
                                const struct moe_tensor *of_weights);

// No rank gets past it before every rank has reached it.
moe_status moe_barrier(struct moe_communicator communicator);

// From now on keeps calls in place of making them, until `moe_capture_end`. Tensors stay where they are for as long as the capture is used.
moe_status moe_capture_begin(struct moe_communicator communicator);

// Gives the calls that were kept.
//
// # Safety
// See `moe_gate`.
moe_status moe_capture_end(struct moe_communicator communicator, struct moe_capture *capture);

// Makes captured calls, with what is now in their tensors; parameters of the gate are those of the capture. All communicators of a world replay
// the same calls.
//
// # Safety
// See `moe_gate`, of all tensors of the captured calls.
moe_status moe_replay(struct moe_communicator communicator,
                      struct moe_capture capture);

// Waits for everything that was launched, and says what went wrong in it.
moe_status moe_synchronise(struct moe_communicator communicator);

// Launches in these CUDA streams from now on, one for each rank.
//
// # Safety
// Each is a stream of the GPU of its rank, and lives until what is launched in it has finished and another is used.
moe_status moe_use_streams(struct moe_communicator communicator, void *const *streams, uint64_t count);

// Reads the first bytes of an array of a handle, a `moe_array`, on a rank. Waits.
//
// # Safety
// See `moe_gate`; there are so many bytes.
moe_status moe_handle_read(struct moe_communicator communicator,
                           struct moe_handle handle,
                           uint32_t rank,
                           uint32_t which,
                           void *into,
                           uint64_t bytes);

// Rows of the experts' input that a rank received, padding included. Waits.
//
// # Safety
// See `moe_gate`.
moe_status moe_handle_rows(struct moe_communicator communicator,
                           struct moe_handle handle,
                           uint32_t rank,
                           uint64_t *rows);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MOE_RUNTIME_H */

// What is refused, and with which words. Each line of output is compared with what the test expects.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe_runtime.h"

static void told(const char *what, moe_status status) {
    printf("%s: %d %s: %s\n", what, (int)status, moe_error_code(), moe_error_message());
}

#define REFUSED(what, call)                            \
    do {                                               \
        moe_status status_ = (call);                   \
        if (status_ == MOE_STATUS_OK) {                \
            printf("%s: was not refused\n", what);     \
            exit(1);                                   \
        }                                              \
        told(what, status_);                           \
    } while (0)

#define CHECK(call)                                             \
    do {                                                        \
        if ((call) != MOE_STATUS_OK) {                          \
            printf("line %d: %s\n", __LINE__, moe_error_message()); \
            exit(1);                                            \
        }                                                       \
    } while (0)

enum { RANKS = 4, TOKENS = 2, TOP_K = 2 };

static moe_tensor tensor(uint32_t number, uint64_t row_bytes, uint64_t rows) {
    moe_part *parts = calloc(RANKS, sizeof *parts);
    for (int rank = 0; rank < RANKS; rank++) {
        parts[rank].address = calloc(rows + 1, row_bytes);
        parts[rank].rows = rows;
    }
    moe_tensor made = {sizeof made, number, row_bytes, parts, RANKS};
    return made;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    if (*moe_error_message() || *moe_error_code()) return 3;
    moe_bundle bundle = {0}, none = {0};
    REFUSED("no path", moe_bundle_open(NULL, &bundle));
    REFUSED("no place for the bundle", moe_bundle_open(arguments[1], NULL));
    REFUSED("no bundle", moe_bundle_open(arguments[2], &bundle));
    CHECK(moe_bundle_open(arguments[1], &bundle));
    moe_plan plan = {0};
    REFUSED("a plan of size 0", moe_bundle_plan(bundle, &plan));
    plan.struct_size = sizeof plan;
    CHECK(moe_bundle_plan(bundle, &plan));

    moe_world_options options = {sizeof options, 7, 0};
    moe_world world = {0};
    REFUSED("an unknown device", moe_world_create(bundle, &options, &world));
    options.device = MOE_DEVICE_VIRTUAL;
    REFUSED("no options", moe_world_create(bundle, NULL, &world));
    REFUSED("a bundle that was never opened", moe_world_create(none, &options, &world));
    struct {
        moe_world_options known;
        uint64_t later;
    } newer = {{sizeof newer, MOE_DEVICE_VIRTUAL, 0}, 1};
    REFUSED("a member of a newer header", moe_world_create(bundle, &newer.known, &world));
    newer.later = 0;
    CHECK(moe_world_create(bundle, &newer.known, &world));

    moe_communicator_options ranks = {sizeof ranks, 3, 2, 0, 1000000000u};
    moe_communicator moe = {0}, other = {0};
    REFUSED("ranks that there are not", moe_communicator_create(world, &ranks, &moe));
    ranks.first_rank = 0, ranks.rank_count = RANKS;
    CHECK(moe_communicator_create(world, &ranks, &moe));
    REFUSED("ranks that are taken", moe_communicator_create(world, &ranks, &other));

    moe_tensor tokens = tensor(plan.token_number, plan.token_row_bytes, TOKENS);
    moe_tensor indices = tensor(MOE_NUMBER_I32, 4 * TOP_K, TOKENS);
    moe_tensor weights = tensor(MOE_NUMBER_F32, 4 * TOP_K, TOKENS);
    moe_tensor input = tensor(plan.input_number, plan.input_row_bytes, plan.most_rows);
    moe_tensor output = tensor(plan.output_number, plan.output_row_bytes, plan.most_rows);
    moe_tensor result = tensor(plan.output_number, plan.output_row_bytes, TOKENS);
    for (int rank = 0; rank < RANKS; rank++)
        for (int place = 0; place < TOKENS * TOP_K; place++) ((int32_t *)indices.parts[rank].address)[place] = place % TOP_K;
    moe_handle handle = {0};
    moe_tensor bad = tokens;
#define DISPATCH(what, tokens, indices, weights, input) \
    REFUSED(what, moe_dispatch(moe, tokens, indices, weights, input, NULL, &handle))
    DISPATCH("no tokens", NULL, &indices, &weights, &input);
    bad.struct_size = 8;
    DISPATCH("a tensor of another size", &bad, &indices, &weights, &input);
    bad = tokens, bad.number = 99;
    DISPATCH("an unknown number", &bad, &indices, &weights, &input);
    bad.number = MOE_NUMBER_BF16;
    DISPATCH("another type", &bad, &indices, &weights, &input);
    bad = tokens, bad.row_bytes += 16;
    DISPATCH("other rows", &bad, &indices, &weights, &input);
    bad = tokens, bad.part_count = 3;
    DISPATCH("a rank too few", &bad, &indices, &weights, &input);
    bad = tokens, bad.parts = NULL;
    DISPATCH("no parts", &bad, &indices, &weights, &input);
    moe_part parts[RANKS];
    memcpy(parts, tokens.parts, sizeof parts);
    bad = tokens, bad.parts = parts, parts[1].address = NULL;
    DISPATCH("rows at NULL", &bad, &indices, &weights, &input);
    memcpy(parts, weights.parts, sizeof parts);
    bad = weights, bad.parts = parts, parts[2].rows = TOKENS - 1;
    DISPATCH("a weight too few", &tokens, &indices, &bad, &input);
    memcpy(parts, tokens.parts, sizeof parts);
    bad = tokens, bad.parts = parts, parts[0].rows = (uint64_t)1 << 62;
    DISPATCH("more rows than memory", &bad, &indices, &weights, &input);
    memcpy(parts, input.parts, sizeof parts);
    bad = input, bad.parts = parts, parts[0].rows -= 1;
    DISPATCH("a row too little room", &tokens, &indices, &weights, &bad);
    REFUSED("no place for the handle", moe_dispatch(moe, &tokens, &indices, &weights, &input, NULL, NULL));
    REFUSED("a communicator that is none", moe_barrier(other));
    REFUSED("a handle before any dispatch", moe_combine(moe, handle, &output, &result));

    CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &input, NULL, &handle));
    int32_t number;
    REFUSED("an unknown array", moe_handle_read(moe, handle, 0, 99, &number, 4));
    REFUSED("more than an array has", moe_handle_read(moe, handle, 0, MOE_ARRAY_EXPERT_COUNTS, &number, 4000));
    REFUSED("a rank of another communicator", moe_handle_read(moe, handle, 9, MOE_ARRAY_EXPERT_COUNTS, &number, 4));
    moe_tensor of_rows = tensor(MOE_NUMBER_F32, 4 * plan.weights_per_row, plan.most_rows);
    REFUSED("gradients that combine gives", moe_weights_backward(moe, handle, &of_rows, &weights));
    CHECK(moe_combine(moe, handle, &output, &result));
    CHECK(moe_handle_destroy(handle));
    REFUSED("a handle that is destroyed twice", moe_handle_destroy(handle));
    REFUSED("a handle after its end", moe_combine(moe, handle, &output, &result));

    ((int32_t *)indices.parts[2].address)[TOP_K + 1] = 77;
    DISPATCH("a pick that is no expert", &tokens, &indices, &weights, &input);
    puts(moe_error_json());
    ((int32_t *)indices.parts[2].address)[TOP_K + 1] = 1;
    DISPATCH("a call after an error", &tokens, &indices, &weights, &input);
    CHECK(moe_world_recover(world));
    CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &input, NULL, &handle));

    CHECK(moe_communicator_destroy(moe));
    REFUSED("a communicator after its end", moe_barrier(moe));
    ranks.first_rank = 1, ranks.rank_count = 1;
    CHECK(moe_communicator_create(world, &ranks, &other));
    output.part_count = result.part_count = 1;
    REFUSED("a handle of another communicator", moe_combine(other, handle, &output, &result));
    REFUSED("a barrier that nobody else comes to", moe_barrier(other));
    return 0;
}

// One process of a world, with the ranks that it is told: experts give back what they get, so that each token comes back as it was.
#include <stdio.h>
#include <stdlib.h>

#include "moe_runtime.h"

#define CHECK(call)                                                                                     \
    do {                                                                                                \
        moe_status status_ = (call);                                                                    \
        if (status_ != MOE_STATUS_OK) {                                                                 \
            fprintf(stderr, "%s:%d: status %d: %s\n", __FILE__, __LINE__, (int)status_, moe_error_message()); \
            exit(1);                                                                                    \
        }                                                                                               \
    } while (0)

enum { TOKENS = 5, TOP_K = 2, MOST = 4 };

static moe_tensor tensor(uint32_t number, uint64_t row_bytes, uint64_t rows, uint32_t ranks) {
    moe_part *parts = calloc(ranks, sizeof *parts);
    if (parts == NULL) abort();
    for (uint32_t rank = 0; rank < ranks; rank++) {
        parts[rank].address = calloc(rows, row_bytes);
        parts[rank].rows = rows;
        if (parts[rank].address == NULL) abort();
    }
    moe_tensor made = {sizeof made, number, row_bytes, parts, ranks};
    return made;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    moe_bundle bundle;
    CHECK(moe_bundle_open(arguments[1], &bundle));
    moe_plan plan = {0};
    plan.struct_size = sizeof plan;
    CHECK(moe_bundle_plan(bundle, &plan));
    moe_join_options options = {sizeof options, MOE_DEVICE_VIRTUAL, (uint32_t)atoi(arguments[2]), 0, 20000000000u};
    moe_world world;
    CHECK(moe_world_join(bundle, &options, &world));
    uint32_t first, ranks;
    CHECK(moe_world_ranks(world, &first, &ranks));
    moe_communicator_options mine = {sizeof mine, first, 0, 0, 20000000000u};
    moe_communicator moe;
    CHECK(moe_communicator_create(world, &mine, &moe));

    moe_tensor tokens = tensor(plan.token_number, plan.token_row_bytes, TOKENS, ranks);
    moe_tensor indices = tensor(MOE_NUMBER_I32, 4 * TOP_K, TOKENS, ranks);
    moe_tensor weights = tensor(MOE_NUMBER_F32, 4 * TOP_K, TOKENS, ranks);
    moe_tensor rows = tensor(plan.input_number, plan.input_row_bytes, plan.most_rows, ranks);
    moe_tensor result = tensor(plan.output_number, plan.output_row_bytes, TOKENS, ranks);
    for (uint32_t rank = 0; rank < ranks; rank++)
        for (uint32_t token = 0; token < TOKENS; token++) {
            float *x = (float *)tokens.parts[rank].address + token * plan.hidden;
            for (uint32_t h = 0; h < plan.hidden; h++) x[h] = (float)(first + rank + 1) * (float)(token + 1) + (float)h / 64;
            ((int32_t *)indices.parts[rank].address)[token * TOP_K] = (int32_t)((first + rank + token) % 4);
            ((int32_t *)indices.parts[rank].address)[token * TOP_K + 1] = (int32_t)(4 + token % 4);
            ((float *)weights.parts[rank].address)[token * TOP_K] = 0.25f;
            ((float *)weights.parts[rank].address)[token * TOP_K + 1] = 0.75f;
        }
    moe_handle handle;
    CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &rows, NULL, &handle));
    CHECK(moe_combine(moe, handle, &rows, &result));
    CHECK(moe_barrier(moe));
    for (uint32_t rank = 0; rank < ranks; rank++) {
        float *found = result.parts[rank].address, *x = tokens.parts[rank].address;
        for (uint32_t place = 0; place < TOKENS * plan.hidden; place++)
            if (found[place] != x[place]) return 3;
        printf("rank %u is right\n", first + rank);
    }
    CHECK(moe_handle_destroy(handle));
    CHECK(moe_communicator_destroy(moe));
    CHECK(moe_world_destroy(world));
    return 0;
}

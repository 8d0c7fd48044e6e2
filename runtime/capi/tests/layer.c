// A whole layer in C, forward and backward, against what it must give in closed form.
//
// Expert e multiplies by e + 1. Token t of rank r is x = r + t / 4 + h / 64; it picks experts (r + t) % E and (r + t + 3) % E with the
// weights 1/4 and 3/4, in the order of their ids. All numbers are small multiples of powers of two, so that f32 gives them exactly.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe_runtime.h"

#define CHECK(call)                                                                                     \
    do {                                                                                                \
        moe_status status_ = (call);                                                                    \
        if (status_ != MOE_STATUS_OK) {                                                                 \
            fprintf(stderr, "%s:%d: status %d: %s\n", __FILE__, __LINE__, (int)status_, moe_error_message()); \
            exit(1);                                                                                    \
        }                                                                                               \
    } while (0)

enum { RANKS = 4, TOKENS = 5, TOP_K = 2 };

static void *room(uint64_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    if (memory == NULL) abort();
    return memory;
}

// A tensor with so many rows on each rank.
static moe_tensor tensor(uint32_t number, uint64_t row_bytes, uint64_t rows) {
    moe_part *parts = room(RANKS * sizeof *parts);
    for (int rank = 0; rank < RANKS; rank++) {
        parts[rank].address = room(rows * row_bytes);
        parts[rank].rows = rows;
    }
    moe_tensor made = {sizeof made, number, row_bytes, parts, RANKS};
    return made;
}

static float *floats(moe_tensor of, int rank) { return of.parts[rank].address; }

static void expect(const char *what, int rank, uint64_t place, double found, double expected) {
    if (found != expected) {
        fprintf(stderr, "%s, rank %d, element %llu: %g, it must be %g\n", what, rank, (unsigned long long)place, found, expected);
        exit(1);
    }
}

static double x(int rank, int token, uint32_t column) { return rank + token / 4.0 + column / 64.0; }

static void picks(int rank, int token, uint32_t experts, int expert[TOP_K], double weight[TOP_K]) {
    int first = (rank + token) % (int)experts, second = (rank + token + 3) % (int)experts;
    int swap = first > second;
    expert[swap] = first, weight[swap] = 0.25;
    expert[!swap] = second, weight[!swap] = 0.75;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    moe_bundle bundle;
    CHECK(moe_bundle_open(arguments[1], &bundle));
    moe_plan plan = {0};
    plan.struct_size = sizeof plan;
    CHECK(moe_bundle_plan(bundle, &plan));
    uint64_t json_bytes = 0;
    CHECK(moe_bundle_json(bundle, NULL, 0, &json_bytes));
    char *json = room(json_bytes);
    CHECK(moe_bundle_json(bundle, json, json_bytes, &json_bytes));
    if (strstr(json, "\"model\":\"small\"") == NULL || strlen(json) + 1 != json_bytes) return 3;
    if (plan.ranks != RANKS || plan.top_k != TOP_K || !plan.combine_weighs || !plan.by_expert) return 4;

    moe_world_options options = {sizeof options, MOE_DEVICE_VIRTUAL, 0};
    moe_world world;
    CHECK(moe_world_create(bundle, &options, &world));
    CHECK(moe_bundle_destroy(bundle));
    moe_communicator_options all = {sizeof all, 0, 0, 0, 10000000000u};
    moe_communicator moe;
    CHECK(moe_communicator_create(world, &all, &moe));

    moe_tensor tokens = tensor(plan.token_number, plan.token_row_bytes, TOKENS);
    moe_tensor indices = tensor(MOE_NUMBER_I32, 4 * TOP_K, TOKENS);
    moe_tensor weights = tensor(MOE_NUMBER_F32, 4 * TOP_K, TOKENS);
    moe_tensor input = tensor(plan.input_number, plan.input_row_bytes, plan.most_rows);
    moe_tensor output = tensor(plan.output_number, plan.output_row_bytes, plan.most_rows);
    moe_tensor result = tensor(plan.output_number, plan.output_row_bytes, TOKENS);
    for (int rank = 0; rank < RANKS; rank++)
        for (int token = 0; token < TOKENS; token++) {
            int expert[TOP_K];
            double weight[TOP_K];
            picks(rank, token, plan.experts, expert, weight);
            for (int pick = 0; pick < TOP_K; pick++) {
                ((int32_t *)indices.parts[rank].address)[token * TOP_K + pick] = expert[pick];
                floats(weights, rank)[token * TOP_K + pick] = (float)weight[pick];
            }
            for (uint32_t h = 0; h < plan.hidden; h++)
                floats(tokens, rank)[(uint32_t)token * plan.hidden + h] = (float)x(rank, token, h);
        }

    moe_handle handle;
    CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &input, NULL, &handle));
    uint64_t rows_of_all = 0;
    int32_t *counts = room(4 * plan.local_experts), *offsets = room(4 * (plan.local_experts + 1));
    for (int rank = 0; rank < RANKS; rank++) {
        uint64_t rows;
        CHECK(moe_handle_rows(moe, handle, (uint32_t)rank, &rows));
        CHECK(moe_handle_read(moe, handle, (uint32_t)rank, MOE_ARRAY_EXPERT_COUNTS, counts, 4 * plan.local_experts));
        CHECK(moe_handle_read(moe, handle, (uint32_t)rank, MOE_ARRAY_EXPERT_OFFSETS, offsets, 4 * (plan.local_experts + 1)));
        if ((uint64_t)offsets[plan.local_experts] != rows) return 5;
        for (uint32_t local = 0; local < plan.local_experts; local++) {
            uint32_t expert = (uint32_t)rank * plan.local_experts + local;
            rows_of_all += (uint64_t)counts[local];
            for (uint32_t place = (uint32_t)offsets[local] * plan.hidden; place < (uint32_t)offsets[local + 1] * plan.hidden; place++)
                floats(output, rank)[place] = (float)(expert + 1) * floats(input, rank)[place];
        }
    }
    if (rows_of_all != RANKS * TOKENS * TOP_K) return 6;
    CHECK(moe_combine(moe, handle, &output, &result));
    CHECK(moe_synchronise(moe));

    // Backwards, with a gradient of 1 for every number of the result.
    moe_tensor ones = tensor(plan.output_number, plan.output_row_bytes, TOKENS);
    moe_tensor of_output = tensor(plan.output_number, plan.output_row_bytes, plan.most_rows);
    moe_tensor of_input = tensor(plan.output_number, plan.output_row_bytes, plan.most_rows);
    moe_tensor of_weights = tensor(MOE_NUMBER_F32, 4 * TOP_K, TOKENS);
    moe_tensor of_tokens = tensor(plan.output_number, plan.output_row_bytes, TOKENS);
    for (int rank = 0; rank < RANKS; rank++)
        for (uint32_t place = 0; place < TOKENS * plan.hidden; place++) floats(ones, rank)[place] = 1;
    CHECK(moe_combine_backward(moe, handle, &output, &ones, &of_output, &of_weights));
    for (int rank = 0; rank < RANKS; rank++) {
        CHECK(moe_handle_read(moe, handle, (uint32_t)rank, MOE_ARRAY_EXPERT_OFFSETS, offsets, 4 * (plan.local_experts + 1)));
        for (uint32_t local = 0; local < plan.local_experts; local++)
            for (uint32_t place = (uint32_t)offsets[local] * plan.hidden; place < (uint32_t)offsets[local + 1] * plan.hidden; place++)
                floats(of_input, rank)[place] =
                    (float)((uint32_t)rank * plan.local_experts + local + 1) * floats(of_output, rank)[place];
    }
    CHECK(moe_dispatch_backward(moe, handle, &of_input, &of_tokens));
    CHECK(moe_barrier(moe));

    for (int rank = 0; rank < RANKS; rank++)
        for (int token = 0; token < TOKENS; token++) {
            int expert[TOP_K];
            double weight[TOP_K], slope = 0, sum = 0;
            picks(rank, token, plan.experts, expert, weight);
            for (int pick = 0; pick < TOP_K; pick++) slope += weight[pick] * (expert[pick] + 1);
            for (uint32_t h = 0; h < plan.hidden; h++) {
                uint32_t place = (uint32_t)token * plan.hidden + h;
                expect("result", rank, place, floats(result, rank)[place], slope * x(rank, token, h));
                expect("gradient of tokens", rank, place, floats(of_tokens, rank)[place], slope);
                sum += x(rank, token, h);
            }
            for (int pick = 0; pick < TOP_K; pick++)
                expect("gradient of weights", rank, (uint64_t)(token * TOP_K + pick), floats(of_weights, rank)[token * TOP_K + pick],
                       (expert[pick] + 1) * sum);
        }
    CHECK(moe_handle_destroy(handle));

    // A layer whose experts give back what they get, captured once and replayed with other tokens each time: the bits of fresh calls.
    moe_tensor again = tensor(plan.output_number, plan.output_row_bytes, TOKENS);
    moe_tensor room_of_rows = tensor(plan.input_number, plan.input_row_bytes, plan.most_rows);
    moe_capture capture;
    CHECK(moe_capture_begin(moe));
    CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &input, NULL, &handle));
    CHECK(moe_combine(moe, handle, &input, &result));
    if (moe_combine(moe, handle, &tokens, &result) != MOE_STATUS_ARGUMENT) return 7;
    CHECK(moe_capture_end(moe, &capture));
    for (int round = 0; round < 100; round++) {
        for (int rank = 0; rank < RANKS; rank++)
            for (uint32_t place = 0; place < TOKENS * plan.hidden; place++)
                floats(tokens, rank)[place] = (float)round / 3 + (float)place * (float)(rank + 1) / 7;
        for (int pick = 0; pick < TOP_K; pick++) ((int32_t *)indices.parts[0].address)[pick] = (round * 3 + pick * 5) % 8;
        int32_t *first = indices.parts[0].address;
        if (first[0] > first[1]) { int32_t swap = first[0]; first[0] = first[1]; first[1] = swap; }
        CHECK(moe_replay(moe, capture));
        moe_handle fresh;
        CHECK(moe_dispatch(moe, &tokens, &indices, &weights, &room_of_rows, NULL, &fresh));
        CHECK(moe_combine(moe, fresh, &room_of_rows, &again));
        CHECK(moe_handle_destroy(fresh));
        for (int rank = 0; rank < RANKS; rank++) {
            if (memcmp(floats(result, rank), floats(again, rank), TOKENS * plan.output_row_bytes) != 0) return 8;
            if (floats(again, rank)[1] == 0) return 9;
        }
    }
    CHECK(moe_handle_destroy(handle));
    CHECK(moe_capture_destroy(capture));
    if (moe_replay(moe, capture) != MOE_STATUS_ARGUMENT) return 10;
    CHECK(moe_communicator_destroy(moe));
    CHECK(moe_world_destroy(world));
    puts("the layer is right");
    return 0;
}

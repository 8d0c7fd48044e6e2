// Recursion, functions through pointers, variables whose address is passed down, a switch.
#define global __attribute__((global))
#define device __attribute__((device))
typedef int (*operation)(int, int);
device __attribute__((noinline)) int add(int a, int b) { return a + b; }
device __attribute__((noinline)) int subtract(int a, int b) { return a - b; }
device __attribute__((noinline)) int ackermann(int m, int n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}
device operation operations[4] = {add, subtract, ackermann, add};
struct link { int value; link* next; };
device __attribute__((noinline)) int sum(link* last, int depth) {
    link own;
    own.value = depth;
    own.next = last;
    if (depth > 0) {
        int below = sum(&own, depth - 1);
        return below * 2 + own.value;
    }
    int total = 0;
    for (link* at = &own; at; at = at->next) total += at->value;
    return total;
}
device __attribute__((noinline)) bool odd(unsigned n);
device __attribute__((noinline)) bool even(unsigned n) { return n == 0 || odd(n - 1); }
device __attribute__((noinline)) bool odd(unsigned n) { return n != 0 && even(n - 1); }
device __attribute__((noinline)) unsigned long long fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
global void calls(int* out, operation* chosen) {
    int lane = __nvvm_read_ptx_sreg_tid_x();
    operation f = operations[lane & 3];
    *chosen = f;
    out[lane] = f(lane & 3, lane >> 3);
    out[32 + lane] = sum(nullptr, lane & 7);
    out[64 + lane] = even(lane) * 2 + odd(lane);
    out[96 + lane] = (int)fibonacci(lane % 12);
}

typedef unsigned int u32; typedef unsigned long long u64;
#define G __attribute__((global))
#define D __attribute__((device))
extern "C" D int vprintf(const char*, void*);
struct A { int x; double y; };
__attribute__((device,noinline)) bool even(int x) { return (x&1)==0; }
extern "C" G void dbg(int* p, int n) { int i = __nvvm_read_ptx_sreg_tid_x(); A a{n,2.0}; if (i==0) vprintf("hello %d %f\n", &a); if (even(n)) p[i]=n; else __builtin_trap();
 __int128 w = n; w*= p[1]; w<<=n; p[2]=(int)(w>>64); }

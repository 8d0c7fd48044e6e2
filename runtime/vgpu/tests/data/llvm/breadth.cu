typedef unsigned int u32; typedef unsigned long long u64; typedef unsigned short u16; typedef unsigned char u8; typedef int s32; typedef long long s64;
#define G __attribute__((global))
#define D __attribute__((device))
#define S __attribute__((shared))
#define C __attribute__((constant))
struct P { u64 a; u32 b; float c[3]; u8 d; };
D u32 table[8] = {1,2,3,4,5,6,7,8};
D u32* pointers[2] = {table, table+3};
C float cs[4] = {1.0f,2.0f,0.5f,3.0f};
extern S u8 dyn[];
S u32 tile[256];
__attribute__((device,noinline)) float helper(float x, int n, P p) { float s=x; for(int i=0;i<n;i++) s = s*p.c[i%3]+cs[i&3]; return s; }
__attribute__((device,noinline)) P make(u64 a) { P p; p.a=a; p.b=(u32)a; p.c[0]=1;p.c[1]=2;p.c[2]=3; p.d=7; return p; }
extern "C" G void k1(P p, float* out, u32 n) {
  u32 i = __nvvm_read_ptx_sreg_tid_x() + __nvvm_read_ptx_sreg_ctaid_x()*__nvvm_read_ptx_sreg_ntid_x();
  if (i<n) { P q = make(p.a+i); out[i] = helper(p.c[0], p.b, q) / (float)(i+1) + (float)pointers[i&1][i&3]; }
}
extern "C" G void k2(u64* a, u32* b, u16* c, s64* d, double* e, u8* f) {
  u32 i = __nvvm_read_ptx_sreg_tid_x();
  tile[i] = b[i] % 13; dyn[i]=f[i]; __nvvm_bar_sync(0);
  u64 x = a[i];
  x = (x<<13)|(x>>51); x *= 0x9e3779b97f4a7c15ull; x ^= __builtin_bswap64(a[i+1]);
  b[i] = __builtin_popcount(tile[i^1]) + __builtin_clzll(x|1) + __builtin_ctz(b[i]|1) + dyn[i^3];
  a[i] = x / (b[i]+1) + x % 1000;
  d[i] = (d[i] >> 3) * (s64)(s32)b[i] / 7; 
  e[i] = e[i]*2.5 + (double)d[i]; 
  c[i] = (u16)((c[i] + 3) >> 2) ; f[i] = (u8)(c[i] * 5) / 3;
  s32 sw = b[i]; switch (sw & 15) { case 0: x+=1; break; case 1: x*=3; break; case 2: x-=9; break; case 3: x^=77; break; case 4: x/=3; break; case 5: x<<=2; break; case 6: x>>=1; break; case 7: x = ~x; break; case 9: x=-x; break; case 11: x|=1; break; default: x&=~3ull; }
  a[i+2]=x;
}
extern "C" G void k3(float* a, __fp16* h, __bf16* b, u32* o, s32* so) {
  u32 i = __nvvm_read_ptx_sreg_tid_x();
  float x=a[i]; h[i] = (__fp16)(x*2); b[i]=(__bf16)(x+1);
  float y = (float)h[i+1] + (float)b[i+1];
  o[i] = (u32)y; so[i] = (s32)x; o[i+1] = (u32)(u64)(x*1e10f);
  a[i+1] = __builtin_fmaxf(x,y); a[i+2]=__builtin_fminf(x,y); a[i+3]=__builtin_sqrtf(x); a[i+4]=__builtin_fabsf(y); a[i+5]=__builtin_floorf(x); a[i+6]=__builtin_ceilf(y); a[i+7]=__builtin_truncf(x); a[i+8]=__builtin_rintf(y); a[i+9]=__builtin_copysignf(x,y); a[i+10]=__builtin_fmaf(x,y,x);
  a[i+11] = x!=x ? 1.f : (x<y ? 2.f: (x>=y?3.f:4.f)); h[i+2] = h[i]*h[i+1]+h[i+2]; b[i+2]=b[i]*b[i+1]-b[i];
}
extern "C" G void k4(u32* p, u64* q, float* f) {
  u32 i = __nvvm_read_ptx_sreg_tid_x();
  __scoped_atomic_fetch_add(p, 1u, __ATOMIC_ACQ_REL, __MEMORY_SCOPE_SYSTEM);
  u32 v = __scoped_atomic_load_n(p+1, __ATOMIC_ACQUIRE, __MEMORY_SCOPE_SYSTEM);
  __scoped_atomic_store_n(p+2, v, __ATOMIC_RELEASE, __MEMORY_SCOPE_DEVICE);
  __scoped_atomic_store_n(q, v, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
  __scoped_atomic_exchange_n(q+1, 5ull, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
  u64 e=3; __scoped_atomic_compare_exchange_n(q+2,&e,9ull,false,__ATOMIC_ACQ_REL,__ATOMIC_RELAXED,__MEMORY_SCOPE_SYSTEM);
  __scoped_atomic_thread_fence(__ATOMIC_ACQ_REL,__MEMORY_SCOPE_SYSTEM); __scoped_atomic_thread_fence(__ATOMIC_SEQ_CST,__MEMORY_SCOPE_DEVICE);
  __scoped_atomic_fetch_max(p+3, i, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
  __scoped_atomic_fetch_or(p+4, i, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
  __nvvm_atom_add_gen_f(f, 1.0f); *(volatile u32*)(p+9) = *(volatile u32*)(p+8);
  u32 s = __nvvm_shfl_sync_bfly_i32(-1, i, 1, 31); s += __nvvm_shfl_sync_idx_i32(-1,i,0,31);
  u32 bal = __nvvm_vote_ballot_sync(-1, i&1); s+=bal; 
  s += __nvvm_match_any_sync_i32(-1, i&3); p[20+i]=s; __nvvm_bar_warp_sync(-1);
  if (__nvvm_vote_any_sync(-1,i==3)) p[60+i]=__nvvm_redux_sync_add(i,-1);
  if (__nvvm_isspacep_shared(p)) p[99]=1;
}

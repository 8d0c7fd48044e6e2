//! What is not PTX, or not known here, is refused with its line and the reason.

use super::super::module;

fn refusal(body: &str) -> String {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 a)\n{{\n.reg .pred %p<3>;\n.reg .b16 \
         %h<3>;\n.reg .b32 %r<5>;\n.reg .b64 %d<5>;\n{body}\nret;\n}}\n"
    );
    match module(&text) {
        Ok(_) => format!("accepted: {body}"),
        Err(error) => {
            assert_eq!(error.line, 10, "{error}");
            assert_eq!(error.text, body);
            error.message
        }
    }
}

#[test]
fn unknown_instructions_modifiers_and_names() {
    let cases = [
        ("frobnicate.b32 %r1, %r2;", "unknown instruction `frobnicate`"),
        ("add.fancy.u32 %r1, %r2, %r3;", "`add.fancy.u32`: unknown modifier `.fancy`"),
        ("add.u32 %r1, %r2, %x;", "`add.u32`: `%x` is not declared"),
        ("add.u32 %r1, %r2, %r5;", "`add.u32`: `%r5` is not declared"),
        ("add.u32 %r1, %r2, %d1;", "`add.u32`: register `%d1` has 64 bits, the instruction needs 32"),
        ("add.u32 %r1, %r2;", "`add.u32`: takes 3 operands, here are 2"),
        ("add.f32 %r1, %r2, 1;", "`add.f32`: a floating-point instruction needs a floating-point literal"),
        ("mul.u32 %r1, %r2, %r3;", "`mul.u32`: needs .lo, .hi or .wide"),
        ("fma.f32 %r1, %r2, %r3, %r4;", "`fma.f32`: needs a rounding mode"),
        ("bra nowhere;", "`bra`: there is no label `nowhere` here"),
        ("ld.acquire.global.u32 %r1, [%d1];", "`ld.acquire.global.u32`: a strong access needs a scope"),
        (
            "st.acquire.sys.global.u32 [%d1], %r1;",
            "`st.acquire.sys.global.u32`: this memory order is not possible here",
        ),
        ("ld.weak.sys.global.u32 %r1, [%d1];", "`ld.weak.sys.global.u32`: a weak or volatile access has no scope"),
        ("ld.shared.nc.u32 %r1, [%r1];", "`ld.shared.nc.u32`: a non-coherent load is a weak load of global memory"),
        ("ld.global.u32 %r1, [%r2];", "`ld.global.u32`: register `%r2` with 32 bits is not an address here"),
        ("st.param.u64 [a], %d1;", "`st.param.u64`: a kernel's parameters cannot be written"),
        ("shfl.up.b32 %r1, %r2, 1, 0;", "`shfl.up.b32`: needs .sync: the forms without it are gone since sm_70"),
        ("cvt.f32.u32 %r1, %r2;", "`cvt.f32.u32`: needs a rounding mode: .rn, .rz, .rm or .rp"),
        ("cvt.u32.f32 %r1, %r2;", "`cvt.u32.f32`: a conversion to an integer needs .rni, .rzi, .rmi or .rpi"),
        ("setp.eq.u32 %r1, %r2, %r3;", "`setp.eq.u32`: `%r1` is not a predicate"),
        ("@%r1 add.u32 %r1, %r2, %r3;", "`add.u32`: `%r1` is not a predicate"),
        ("tex.2d.v4.f32.f32 {%r1, %r2, %r3, %r4}, [tex, {%r1, %r2}];", "unknown instruction `tex`"),
        ("call foo, ();", "`call`: there is no function `foo` in this module"),
        ("mov.u32 %r1, 0x1ffffffff;", "`mov.u32`: literal 8589934591 does not fit in 32 bits"),
        ("atom.global.and.u32 %r1, [%d1], 1;", "`atom.global.and.u32`: type U32 is not supported for this instruction"),
        ("selp.pred %p1, 1, 0, %p2;", "`selp.pred`: predicates are not possible here"),
        ("?", "`?` has no meaning in PTX"),
    ];
    for (body, message) in cases {
        assert_eq!(refusal(body), message);
    }
}

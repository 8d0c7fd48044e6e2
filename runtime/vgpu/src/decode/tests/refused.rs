//! What is not PTX, or not known here, is refused with its line and the reason.

use super::super::{module, supported};

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

/// Kernels around a function of whose body a statement cannot be read.
fn around(statement: &str, kind: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry before()\n{{\nret;\n}}\n{kind}()\n{{\n.reg .b32 %r<4>;\n.reg .b64 \
         %d<4>;\n{{\nmov.u32 %r1, 1;\n}}\n{statement}\nret;\n}}\n.visible .entry calls()\n{{\ncall broken, ();\nret;\n}}\n.visible .entry \
         after()\n{{\n{{\nret;\n}}\n}}\n"
    )
}

#[test]
fn a_statement_that_cannot_be_read_costs_its_function() {
    let statements = [
        ("mov.u32 %r1 %r2;", "expected `;`, found `%r2`"),
        ("add.u32 %r1, , 2;", "expected an operand, found `,`"),
        ("?", "`?` has no meaning in PTX"),
        ("mov.u32 %r1, 99999999999999999999;", "`99999999999999999999` is not a number of at most 64 bits"),
        ("mov.u32 %r1, 0x;", "`0x` is not a number of at most 64 bits"),
        (".reg .q32 %x;", "`.q32` is not a register type"),
        (".shared .align 3 .b8 s[4];", "alignment 3 is not a power of two up to 4096"),
        ("= 5;", "expected an instruction, found `=`"),
        ("mov.b64 %d1, {%r1, %r2;", "expected `}`, found `;`"),
        ("{ add.u32 %r1, %r1", "expected `;`, found `ret`"),
    ];
    for (statement, message) in statements {
        for kind in [".visible .entry broken", ".func broken", ".weak .func broken"] {
            let text = around(statement, kind);
            let (program, refused) = supported(&text, &[]).unwrap_or_else(|error| panic!("{statement}: {error}"));
            let kernels: Vec<&str> = program.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
            assert_eq!(kernels, ["before", "after"], "{statement}");
            // A kernel that calls it has the same error; one that calls a kernel has its own.
            let told = refused.iter().find(|one| one.error.message == message).unwrap_or_else(|| panic!("{refused:?}"));
            let line = text.lines().position(|line| line == statement).expect("its line") + 1;
            let ends_later = statement.starts_with('{');
            assert_eq!(told.error.line as usize, line + usize::from(ends_later), "{statement}");
            let mut names: Vec<&str> = refused.iter().map(|one| one.kernel.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["broken", "calls"], "{statement}");
            // Whoever wants the whole module hears of it.
            assert!(module(&text).is_err(), "{statement}");
        }
    }
    // What no brace can end costs the module.
    for statement in ["/* no end", "mov.u32 %r1, \"no end;"] {
        assert!(supported(&around(statement, ".visible .entry broken"), &[]).is_err(), "{statement}");
    }
    // So does what is wrong outside of bodies.
    let header = around("", ".visible .entry broken").replace("entry calls()", "entry calls(");
    assert!(supported(&header, &[]).is_err());
}

//! A bundle survives the way through a file, and nothing else does.

use moe_bundle::file::{HEADER_BYTES, MAGIC, VERSION};
use moe_bundle::manifest::Parameter;
use moe_bundle::{
    Bundle, Capacity, CubinEntry, Digest, GateDescription, KernelImage, Manifest, ManifestError, ParameterKind,
    ReadError,
};
use moe_contract::{Exchange, Format, Grid, Kernel, LimitError, RowLayout, ScaleElement, Scales};
use proptest::prelude::*;

/// 2 ranks, 4 experts, 2 tokens of 8 bf16.
fn exchange() -> Exchange {
    Exchange {
        ranks: 2,
        experts: 4,
        zero_experts: 0,
        top_k: 2,
        hidden: 8,
        max_tokens: 2,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(1),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    }
}

fn manifest() -> Manifest {
    Manifest {
        compiler: "moec 0.1.0".into(),
        assembler: Some("ptxas 13.2.86".into()),
        model: "tiny".into(),
        deploy: Some("laptop".into()),
        source: "model tiny {}".into(),
        exchange: exchange(),
        gate: GateDescription {
            logits: "logits".into(),
            parameters: vec![Parameter { name: "bias".into(), kind: ParameterKind::Experts }],
            experts: 4,
            groups: 1,
            top_k: 2,
            before_experts: false,
        },
        capacity: None,
        kernels: vec![],
    }
}

fn image(kernel: Kernel, grid: Grid, ptx: &str) -> KernelImage {
    let cubin = Some(cubin(8, 90, kernel.name()));
    KernelImage {
        kernel,
        target: "sm_90a".into(),
        block: 64,
        grid,
        shared: 0,
        programmatic: false,
        registers: Some(18),
        ptx: ptx.into(),
        cubin,
    }
}

/// Machine code as ptxas 13 begins it (form 8) or ptxas 12 did (form 7), for a GPU, with anything behind the header.
fn cubin(form: u8, machine: u8, code: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..9].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0x41, form]);
    bytes[18] = 190;
    bytes[48..52].copy_from_slice(&if form >= 8 { [4, machine, 0, 6] } else { [machine, 5, machine, 0] });
    bytes.extend_from_slice(code.as_bytes());
    bytes
}

fn images() -> [KernelImage; 2] {
    [
        image(Kernel::Gate, Grid::PerTokens(8), ".entry gate // with a bias"),
        image(Kernel::Barrier, Grid::Fixed(1), ".entry barrier"),
    ]
}

fn bundle() -> Bundle {
    Bundle::new(manifest(), &images()).expect("sound")
}

/// The same as it is built where there is no assembler.
fn without_machine_code() -> Bundle {
    let images = images().map(|image| KernelImage { cubin: None, registers: None, ..image });
    Bundle::new(Manifest { assembler: None, ..manifest() }, &images).expect("sound")
}

const PTX: &[u8] = b".entry gate // with a bias.entry barrier";

fn cubins() -> Vec<u8> {
    [cubin(8, 90, "gate"), cubin(8, 90, "barrier")].concat()
}

/// The bytes of a file whose manifest is this text and whose hash is right.
fn forged(manifest: &str, ptx: &[u8], cubins: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((manifest.len() as u32).to_le_bytes());
    head.extend((ptx.len() as u64).to_le_bytes());
    head.extend((cubins.len() as u64).to_le_bytes());
    let body = [manifest.as_bytes(), ptx, cubins].concat();
    let hash = sha2::Sha256::new().chain_update(&head).chain_update(&body).finalize();
    [&head[..], &hash[..], &body].concat()
}

fn forged_with(cubins: &[u8], change: impl FnOnce(&mut Manifest)) -> Result<Bundle, ReadError> {
    let mut manifest = bundle().manifest().clone();
    change(&mut manifest);
    let text = serde_json::to_string(&manifest).expect("JSON");
    Bundle::from_bytes(&forged(&text, PTX, cubins))
}

fn forged_from(change: impl FnOnce(&mut Manifest)) -> Result<Bundle, ReadError> {
    forged_with(&cubins(), change)
}

/// Where the machine code of the gate is said to be.
fn of_gate(manifest: &mut Manifest) -> &mut CubinEntry {
    manifest.kernels[0].cubin.as_mut().expect("it has some")
}

#[test]
fn a_bundle_survives_the_way_through_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.moeb");
    bundle().write(&path).expect("written");
    let read = Bundle::read(&path).expect("read");
    assert_eq!(read, bundle());
    let gate = read.kernel(Kernel::Gate, "sm_90a").expect("there");
    assert_eq!(read.ptx(gate), ".entry gate // with a bias");
    assert_eq!(read.cubin(gate), Some(&cubin(8, 90, "gate")[..]));
    let barrier = read.kernel(Kernel::Barrier, "sm_90a").expect("there");
    assert_eq!(read.ptx(barrier), ".entry barrier");
    assert_eq!(read.cubin(barrier), Some(&cubin(8, 90, "barrier")[..]));
    assert_eq!(read.kernel(Kernel::Barrier, "sm_100a"), None);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
}

#[test]
fn an_unwritable_place_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let occupied = folder.path().join("occupied");
    std::fs::create_dir_all(occupied.join("inside")).expect("a folder");
    let error = bundle().write(&occupied).expect_err("a folder is in the way");
    assert!(error.to_string().starts_with("cannot write "), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = bundle().to_bytes();
    for place in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            let error = Bundle::from_bytes(&damaged).expect_err("damaged");
            let fits = match place {
                0..8 => matches!(error, ReadError::Foreign),
                8..12 => matches!(error, ReadError::OtherVersion { .. }),
                12..32 => matches!(error, ReadError::Truncated { .. } | ReadError::Trailing { .. }),
                _ => matches!(error, ReadError::Damaged { .. }),
            };
            assert!(fits, "byte {place}: {error}");
        }
    }
}

#[test]
fn every_shortening_and_a_lengthening_are_noticed() {
    let bytes = bundle().to_bytes();
    assert!(matches!(Bundle::from_bytes(&[]), Err(ReadError::Foreign)));
    for length in 1..bytes.len() {
        let error = Bundle::from_bytes(&bytes[..length]).expect_err("cut off");
        assert!(matches!(error, ReadError::Truncated { found, .. } if found == length), "{length}: {error}");
    }
    let longer = [&bytes[..], b"!"].concat();
    assert!(matches!(Bundle::from_bytes(&longer), Err(ReadError::Trailing { extra: 1 })));
}

#[test]
fn the_largest_lengths_allocate_nothing() {
    let mut bytes = bundle().to_bytes();
    bytes[12..32].fill(0xff);
    let expected = HEADER_BYTES as u128 + u128::from(u32::MAX) + 2 * u128::from(u64::MAX);
    let error = Bundle::from_bytes(&bytes).expect_err("hostile");
    assert!(matches!(error, ReadError::Truncated { expected: e, .. } if e == expected), "{error}");
}

#[test]
fn another_version_says_what_to_do() {
    let mut bytes = bundle().to_bytes();
    bytes[8] = 7;
    let error = Bundle::from_bytes(&bytes).expect_err("other version");
    assert_eq!(
        error.to_string(),
        "bundle of format version 7; this program reads version 3: build it again with `moec build`"
    );
}

#[test]
fn a_forged_manifest_with_a_right_hash_is_refused() {
    assert!(forged_from(|_| ()).is_ok(), "the forger knows the format");
    assert!(matches!(Bundle::from_bytes(&forged("{", b"", b"")), Err(ReadError::Manifest(_))));
    assert!(matches!(forged_from(|m| m.kernels[1].ptx_bytes = u64::MAX), Err(ReadError::PtxRange { .. })));
    assert!(matches!(forged_from(|m| m.kernels[0].ptx_start = u64::MAX), Err(ReadError::PtxRange { .. })));
    assert!(matches!(forged_from(|m| m.kernels[0].ptx_bytes -= 1), Err(ReadError::PtxHash { .. })));
    let contradiction = |change: fn(&mut Manifest)| match forged_from(change) {
        Err(ReadError::Contradiction(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        contradiction(|m| m.exchange.ranks = 1000),
        ManifestError::Limit(LimitError::OutOfRange { what: "ranks", found: 1000, least: 1, most: 72 })
    );
    assert!(matches!(contradiction(|m| m.kernels[1].kernel = Kernel::Gate), ManifestError::KernelTwice { .. }));
    assert!(matches!(contradiction(|m| m.kernels[1].target = "sm_100a".into()), ManifestError::KernelMissing { .. }));
    assert!(matches!(contradiction(|m| m.kernels[1].grid = Grid::Fixed(2)), ManifestError::GridDiffers { .. }));
    assert!(matches!(contradiction(|m| m.kernels[0].grid = Grid::PerTokens(0)), ManifestError::Launch { .. }));
    assert!(matches!(contradiction(|m| m.kernels[0].block = 33), ManifestError::Launch { .. }));
    assert!(matches!(contradiction(|m| m.gate.experts = 5), ManifestError::GateDiffers { gate: 5, exchange: 4, .. }));
    assert!(matches!(contradiction(|m| m.gate.groups = 0), ManifestError::Groups { .. }));
    assert!(matches!(contradiction(|m| m.gate.logits = "bias".into()), ManifestError::ParameterTwice(_)));
    assert!(matches!(contradiction(|m| m.capacity = Some(Capacity::Factor(1.25))), ManifestError::Capacity(_)));
}

#[test]
fn a_bundle_without_an_assembler_has_ptx_alone() {
    let bundle = without_machine_code();
    let read = Bundle::from_bytes(&bundle.to_bytes()).expect("read");
    assert_eq!(read, bundle);
    assert!(read.manifest().kernels.iter().all(|entry| read.cubin(entry).is_none()));
    let gate = read.kernel(Kernel::Gate, "sm_90a").expect("there");
    assert_eq!(read.ptx(gate), ".entry gate // with a bias");
}

#[test]
fn forged_machine_code_is_refused() {
    assert!(matches!(forged_from(|m| of_gate(m).bytes = u64::MAX), Err(ReadError::CubinRange { .. })));
    assert!(matches!(forged_from(|m| of_gate(m).start = u64::MAX), Err(ReadError::CubinRange { .. })));
    assert!(matches!(forged_from(|m| of_gate(m).bytes -= 1), Err(ReadError::CubinHash { .. })));
    assert!(matches!(forged_from(|m| of_gate(m).start += 1), Err(ReadError::CubinHash { .. })));
    // Machine code of another kernel, with the other's hash, is for the hash to tell.
    assert!(matches!(forged_from(|m| of_gate(m).sha256 = Digest([0; 32])), Err(ReadError::CubinHash { .. })));
    // Right in every hash, and not for this GPU, or not for any.
    let instead = |code: Vec<u8>| {
        let rest = cubin(8, 90, "barrier");
        forged_with(&[&code[..], &rest].concat(), |m| {
            *of_gate(m) = CubinEntry { start: 0, bytes: code.len() as u64, sha256: Digest::of(&code) };
            m.kernels[1].cubin.as_mut().expect("it has some").start = code.len() as u64;
        })
    };
    assert!(instead(cubin(8, 90, "another")).is_ok(), "the forger knows the format");
    assert!(instead(cubin(7, 90, "older")).is_ok(), "as ptxas 12 writes it");
    for form in [7, 8] {
        let error = instead(cubin(form, 100, "gate")).expect_err("another GPU's");
        assert_eq!(error.to_string(), "the machine code of kernel gate is not for sm_90a: it is for sm_100");
    }
    for none in [b"#!/bin/sh".to_vec(), Vec::new(), cubin(8, 90, "gate")[..63].to_vec(), b"\x7fELF".repeat(40)] {
        let error = instead(none).expect_err("no machine code");
        assert_eq!(
            error.to_string(),
            "the machine code of kernel gate is not for sm_90a: it is no machine code of a GPU"
        );
    }
    let contradiction = |change: fn(&mut Manifest)| match forged_from(change) {
        Err(ReadError::Contradiction(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        contradiction(|m| m.kernels[1].cubin = None),
        "kernel barrier (sm_90a) has no machine code, and others have some"
    );
    assert_eq!(
        contradiction(|m| m.assembler = None),
        "kernel gate (sm_90a) has machine code, and the bundle names no assembler"
    );
}

#[test]
fn an_exchange_that_cannot_be_is_refused() {
    let problem = |change: fn(&mut Exchange)| {
        let mut exchange = exchange();
        change(&mut exchange);
        exchange.check().expect_err("wrong").to_string()
    };
    assert_eq!(exchange().check(), Ok(()));
    assert_eq!(problem(|x| x.hidden = 12), "bytes of a dispatched row is 24; it must be a multiple of 16");
    assert_eq!(problem(|x| x.top_k = 5), "top_k is 5, but there are only 4 experts");
    assert_eq!(
        problem(|x| x.dispatch.scales = Some(Scales { element: ScaleElement::F32, block: 64 })),
        "no kernel is made for the format Format { element: Bf16, scales: Some(Scales { element: F32, block: 64 }) }"
    );
    assert_eq!(
        problem(|x| x.layout = RowLayout::RankMajor),
        "combine cannot weigh rows of layout rank_major: the expert function does; use reduce unweighted"
    );
    assert_eq!(
        problem(|x| x.combine = Format::FP8_F32_128),
        "combine cannot use fp8_e4m3 scale f32 per 128: the way back carries formats without scales"
    );
    assert_eq!(
        problem(|x| (x.ranks, x.max_tokens) = (72, 1 << 24)),
        "the picks of received copies would have 2415919104 entries, more than 2147483647: lower max_tokens, now 16777216"
    );
}

#[test]
fn every_expert_belongs_to_exactly_one_rank() {
    let mut x = exchange();
    (x.experts, x.ranks) = (11, 4);
    let owned: Vec<_> = (0..4).map(|rank| x.experts_of(rank)).collect();
    assert_eq!(owned, [0..3, 3..6, 6..9, 9..11]);
    let owners: Vec<_> = (0..11).map(|expert| x.rank_of(expert)).collect();
    assert_eq!(owners, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]);
}

#[test]
fn capacity_is_the_even_share_times_the_factor() {
    let mut manifest = manifest();
    manifest.capacity = Some(Capacity::Factor(1.25));
    assert_eq!(manifest.capacity(100), Some(63), "100 tokens × 2 picks ÷ 4 experts × 1.25 = 62.5");
    assert_eq!(manifest.capacity(0), Some(0));
    manifest.capacity = Some(Capacity::Picks(7));
    assert_eq!(manifest.capacity(100), Some(7));
    manifest.capacity = None;
    assert_eq!(manifest.capacity(100), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Bundle::from_bytes(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_right_beginning_are_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ptx in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let beginning = [&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat();
        prop_assert!(Bundle::from_bytes(&beginning).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(Bundle::from_bytes(&forged(&text, &ptx, &ptx)).is_err());
    }

    /// The hash is right, every number of the manifest is anything: an error or a sound exchange, no overflow on the way.
    #[test]
    fn hostile_numbers_never_panic(at in any::<prop::sample::Index>(), number in any::<u64>(), second in any::<prop::sample::Index>()) {
        let mut value = serde_json::to_value(bundle().manifest()).expect("JSON");
        for place in [at, second] {
            let mut numbers = Vec::new();
            collect_numbers(&mut value, &mut numbers);
            let chosen = place.index(numbers.len());
            *numbers.swap_remove(chosen) = number.into();
        }
        if let Ok(read) = Bundle::from_bytes(&forged(&value.to_string(), PTX, &cubins())) {
            prop_assert_eq!(read.manifest().check(), Ok(()));
        }
    }
}

fn collect_numbers<'v>(value: &'v mut serde_json::Value, numbers: &mut Vec<&'v mut serde_json::Value>) {
    match value {
        serde_json::Value::Number(_) => numbers.push(value),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| collect_numbers(item, numbers)),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| collect_numbers(field, numbers)),
        _ => {}
    }
}

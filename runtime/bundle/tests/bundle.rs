//! A bundle survives the way through a file, and nothing else does.

use moe_bundle::file::{HEADER_BYTES, MAGIC, VERSION};
use moe_bundle::manifest::Parameter;
use moe_bundle::{Bundle, Capacity, GateDescription, KernelImage, Manifest, ManifestError, ParameterKind, ReadError};
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
        layout: RowLayout::ExpertMajor { align: 1 },
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas: 2,
        threads: 64,
    }
}

fn manifest() -> Manifest {
    Manifest {
        compiler: "moec 0.1.0".into(),
        assembler: None,
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
    KernelImage { kernel, target: "sm_90a".into(), block: 64, grid, shared: 0, registers: Some(18), ptx: ptx.into() }
}

fn bundle() -> Bundle {
    let images = [
        image(Kernel::Gate, Grid::PerTokens(8), ".entry gate // with a bias"),
        image(Kernel::Barrier, Grid::Fixed(1), ".entry barrier"),
    ];
    Bundle::new(manifest(), &images).expect("sound")
}

/// The bytes of a file whose manifest is this text and whose hash is right.
fn forged(manifest: &str, ptx: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((manifest.len() as u32).to_le_bytes());
    head.extend((ptx.len() as u64).to_le_bytes());
    let hash = sha2::Sha256::new().chain_update(&head).chain_update(manifest).chain_update(ptx).finalize();
    [&head[..], &hash[..], manifest.as_bytes(), ptx].concat()
}

fn forged_from(change: impl FnOnce(&mut Manifest)) -> Result<Bundle, ReadError> {
    let mut manifest = bundle().manifest().clone();
    change(&mut manifest);
    let text = serde_json::to_string(&manifest).expect("JSON");
    Bundle::from_bytes(&forged(&text, b".entry gate // with a bias.entry barrier"))
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
    let barrier = read.kernel(Kernel::Barrier, "sm_90a").expect("there");
    assert_eq!(read.ptx(barrier), ".entry barrier");
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
                12..24 => matches!(error, ReadError::Truncated { .. } | ReadError::Trailing { .. }),
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
    bytes[12..24].fill(0xff);
    let expected = HEADER_BYTES as u128 + u128::from(u32::MAX) + u128::from(u64::MAX);
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
        "bundle of format version 7; this program reads version 2: build it again with `moec build`"
    );
}

#[test]
fn a_forged_manifest_with_a_right_hash_is_refused() {
    assert!(forged_from(|_| ()).is_ok(), "the forger knows the format");
    assert!(matches!(Bundle::from_bytes(&forged("{", b"")), Err(ReadError::Manifest(_))));
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
        prop_assert!(Bundle::from_bytes(&forged(&text, &ptx)).is_err());
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
        if let Ok(read) = Bundle::from_bytes(&forged(&value.to_string(), b".entry gate // with a bias.entry barrier")) {
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

//! Every code with its level, its title and its explanation, in one place.
//!
//! Invariant: a code is never reused for another problem. `M00xx` bytes and tokens, `M01xx` structure, `M02xx` names, `M03xx` types,
//! `M04xx` numbers and units, `M05xx` models, `M06xx` deploys, `M07xx` what cannot be built yet.

use std::fmt;

use super::Severity;

macro_rules! codes {
    ($($id:ident $name:ident $level:ident $title:literal;)*) => {
        /// The stable name of a kind of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", stringify!($id), "`: ", $title)] $name,)*
        }

        impl Code {
            /// All, in ascending order.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// Such as `M0301`.
            pub fn id(self) -> &'static str {
                match self { $(Code::$name => stringify!($id)),* }
            }

            /// The kind of problem in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$level),* }
            }

            /// What it means, with a failing and a repaired example, in Markdown.
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Code::$name => include_str!(concat!("../../../../docs/errors/", stringify!($id), ".md"))),*
                }
            }

            /// The code written `id`, in any case.
            pub fn find(id: &str) -> Option<Code> {
                Code::ALL.iter().copied().find(|code| code.id().eq_ignore_ascii_case(id))
            }
        }
    };
}

codes! {
    M0001 FileTooLarge Error "the file is larger than any .moe file";
    M0002 NotUtf8 Error "the file is not UTF-8 text";
    M0003 NulByte Error "a zero byte";
    M0004 ForeignCharacter Error "a character that the language does not use";
    M0005 OpenString Error "a text in quotes that does not end";
    M0006 MalformedNumber Error "a number that cannot be read";
    M0007 BlockComment Error "a block comment";
    M0101 Unexpected Error "something that cannot stand here";
    M0102 UnknownSetting Error "an unknown setting, statement or declaration";
    M0103 Unclosed Error "a bracket that is never closed";
    M0104 StrayCloser Error "a bracket that closes nothing";
    M0105 TooDeep Error "brackets nested too deeply";
    M0106 LongExpression Error "an expression with too many operations";
    M0107 MissingValue Error "a setting without its value";
    M0108 UnexpectedEnd Error "a file that ends in the middle";
    M0109 Separator Error "a comma or semicolon between settings";
    M0110 Assignment Error "an equals sign or colon after a setting";
    M0111 Empty Error "a file that declares nothing";
    M0112 BadName Error "something that is not a name";
    M0201 UnknownValue Error "an unknown name in a gate";
    M0202 UnknownFunction Error "an unknown function";
    M0203 DefinedTwice Error "a name of a gate defined twice";
    M0204 UnknownModel Error "a deploy of an unknown model";
    M0205 UnknownCluster Error "a deploy on an unknown cluster";
    M0206 DeclaredTwice Error "two declarations with one name";
    M0207 SettingTwice Error "a setting given twice";
    M0208 SettingMissing Error "a setting that is missing";
    M0209 UnknownArgument Error "an unknown argument";
    M0210 ArgumentMissing Error "an argument that is missing";
    M0211 ArgumentTwice Error "an argument too many";
    M0212 UnknownPayload Error "an unknown payload format";
    M0213 UnknownScale Error "an unknown format of scales";
    M0214 UnknownLayout Error "an unknown layout";
    M0215 UnknownAccumulate Error "an unknown format to sum in";
    M0216 UnknownWeighting Error "an unknown way to reduce";
    M0217 UnknownDrop Error "an unknown rule for dropping";
    M0218 UnknownTarget Error "an unknown target";
    M0219 UnknownMode Error "an unknown mode";
    M0220 UnusedValue Warning "a value that is never used";
    M0221 UnusedParameter Warning "a parameter that is never read";
    M0222 Reserved Error "a name that the language uses";
    M0223 UnknownType Error "an unknown type";
    M0224 UnknownDimension Error "an unknown dimension";
    M0225 UnknownEmbeddings Error "an unknown kind of embeddings";
    M0226 UnknownPadding Error "an unknown padding";
    M0301 Mismatch Error "two values of different shapes";
    M0302 Argument Error "an argument of the wrong type";
    M0303 ArgumentCount Error "too few or too many arguments";
    M0304 NoWeights Error "a gate without weights";
    M0305 Weights Error "weights that are not one number per chosen expert";
    M0306 AfterWeights Error "a statement after the result";
    M0307 Index Error "a gather of the wrong things";
    M0308 NotReduced Error "several numbers per group where one is needed";
    M0309 NotConstant Error "a count that is not a number";
    M0310 OtherChoice Error "numbers of different chosen experts";
    M0311 NoLogits Error "a gate without logits";
    M0312 Logits Error "logits of the wrong type";
    M0313 Parameter Error "a parameter of an impossible type";
    M0314 NoGroups Error "groups that are not declared";
    M0315 NotNumbers Error "arithmetic on something that is not a number";
    M0316 ConstantTooLarge Error "a constant too large for f32";
    M0317 ConstantVanishes Warning "a constant too small for f32";
    M0318 TableIndex Error "a table read at something else than a token id";
    M0319 Within Error "experts in something that is not chosen groups";
    M0401 UnknownUnit Error "an unknown unit";
    M0402 WrongUnit Error "a unit of the wrong kind";
    M0403 MissingUnit Error "a number without its unit";
    M0404 SuperfluousUnit Error "a unit where none belongs";
    M0405 NotWhole Error "a fraction where a whole number is needed";
    M0406 TooLarge Error "a number that is too large";
    M0407 Zero Error "zero where at least one is needed";
    M0408 Percent Error "a percentage where a count is needed";
    M0409 Negative Error "a number below zero";
    M0501 UnevenGroups Error "groups of unequal size";
    M0502 PicksExceedGroups Error "more picks than the chosen groups hold";
    M0503 PicksExceedExperts Error "more picks than experts";
    M0504 TooManyPicks Error "more picks than the kernels handle";
    M0505 TooManyExperts Error "more experts than the kernels handle";
    M0506 TooManyGroups Error "more chosen groups than there are";
    M0507 AllGroups Warning "a choice of all groups";
    M0508 TopExceedsGroup Error "more of each group than it has";
    M0509 ScaleBlock Error "a block of scales that does not divide a row";
    M0510 RowBytes Error "a row that is not a multiple of 16 bytes";
    M0511 Alignment Error "an alignment that cannot be honoured";
    M0512 UselessAlignment Error "an alignment without effect";
    M0513 ScaleNotTaken Error "scales on a format without scales";
    M0514 ScaleMissing Error "a format without its scales";
    M0515 ScaleForm Error "scales of a form that does not exist";
    M0516 CombinePayload Error "a combine payload of too little precision";
    M0517 ZeroOutside Error "a zero expert that does not exist";
    M0518 ZeroReversed Error "a range that ends before it begins";
    M0519 ZeroOverlap Error "zero experts named twice";
    M0520 AllZero Error "no expert that computes";
    M0521 CapacityBelowOne Warning "a capacity below a balanced load";
    M0522 CapacityWithoutDrop Error "a capacity without a rule for dropping";
    M0523 WeightedTwice Error "weights applied twice";
    M0524 WeightsUnused Warning "weights that combine does not apply";
    M0525 FillWithoutGroups Error "a fill without masked experts";
    M0526 VocabMissing Error "a table over an unknown vocabulary";
    M0527 SumMayVanish Warning "a normalisation that can divide by zero";
    M0528 WeightedRankMajor Error "weights on rows that belong to several experts";
    M0529 UnevenHeads Error "heads that do not share keys evenly";
    M0530 LocalLayers Error "more layers that see part of the tokens than there are";
    M0531 EncoderLayers Error "an encoder of more layers than there are";
    M0532 OutputGroups Error "heads that do not make equal groups of outputs";
    M0601 UnevenExperts Warning "experts that do not divide among ranks";
    M0602 IdleRanks Warning "ranks without experts";
    M0603 TooFewGpus Error "more ranks than GPUs";
    M0604 GpusLeftOver Error "ranks that do not fill the cluster";
    M0605 PartOfNode Error "ranks that are not whole nodes";
    M0606 GroupSpansNodes Warning "a group of experts on several nodes";
    M0607 Memory Error "more memory than a GPU has";
    M0608 ZeroShardsNothing Warning "ZeRO on experts with one replica";
    M0609 DomainTooLarge Error "an NVLink domain that is too large";
    M0610 WorldSize Warning "a plan for another number of GPUs";
    M0611 ReplicasNotWhole Error "a fraction of an expert replica";
    M0612 ZeroStage Error "an unknown ZeRO stage";
    M0613 TooManySms Error "more SMs than the GPU has";
    M0614 AllSms Warning "all SMs for communication";
    M0615 NoRdma Error "several nodes without a network";
    M0616 TooManyStages Error "more pipeline stages than layers";
    M0617 LatencyTokens Warning "latency mode with many tokens";
    M0618 LinksSwapped Warning "a network faster than NVLink";
    M0619 UnlikelyHardware Warning "hardware that nobody has";
    M0701 RowsNotBuilt Error "a payload or a layout without kernels yet";
    M0703 ZeroExpertsNotBuilt Error "experts that compute nothing among others";
    M0704 NodesNotBuilt Error "several nodes";
    M0705 LatencyNotBuilt Note "latency mode with the kernels of throughput mode";
    M0706 LimitNotBuilt Error "numbers beyond what kernels are made for";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// The explanation of the code written `id`.
pub fn explain(id: &str) -> Option<&'static str> {
    Code::find(id).map(Code::explanation)
}

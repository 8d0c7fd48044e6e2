//! Accesses of a part of a warp, in rows, with holes and scattered: each lane's bytes, initialisation, bounds and count.

mod support;

use moe_vgpu::{Address, Cluster, Launch, RankId, RunError};
use support::*;

/// Address of lane l's element at `%rd5`: 16 bytes each, in `from` and `to`; the lane in `%r1`.
const HEAD: &str = "
    ld.param.u64 %rd1, [from]; ld.param.u64 %rd2, [to]; mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 16; add.u64 %rd5, %rd1, %rd3; add.u64 %rd6, %rd2, %rd3;
    and.b32 %r2, %r1, 7; setp.ne.u32 %p1, %r2, 0;";

struct Run {
    cluster: Cluster,
    from: Address,
    to: Address,
}

/// `from` holds the numbers of its words, `to` is not initialised; both have room for so many lanes.
fn prepared(lanes: u32) -> Run {
    let mut cluster = cluster(2);
    let from = cluster.allocate(RankId(0), u64::from(lanes) * 16, "from").unwrap();
    write_words(&mut cluster, from, &(0..lanes * 4).collect::<Vec<u32>>());
    let to = cluster.allocate(RankId(1), u64::from(lanes) * 16, "to").unwrap();
    Run { cluster, from, to }
}

impl Run {
    fn run(&mut self, body: &str) -> Result<(), RunError> {
        let kernel = kernel("part", ".param .u64 from, .param .u64 to", &format!("{HEAD}{body}"));
        let stream = stream(&mut self.cluster, 0);
        self.cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![self.from.into(), self.to.into()])).unwrap();
        self.cluster.run().map(|_| ())
    }

    fn lane(&mut self, lane: u32) -> Result<Vec<u32>, String> {
        let mut bytes = [0; 16];
        let read = self.cluster.read(self.to.offset(u64::from(lane) * 16), &mut bytes);
        read.map_err(|error| error.to_string())?;
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}

const COPY: &str = "
    @%p1 ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd5];
    @%p1 st.global.v4.b32 [%rd6], {%r4, %r5, %r6, %r7};";

#[test]
fn a_row_with_holes_touches_only_what_its_lanes_own() {
    let mut run = prepared(32);
    run.run(COPY).unwrap();
    for lane in 0..32 {
        let expected: Vec<u32> = (lane * 4..lane * 4 + 4).collect();
        match run.lane(lane) {
            Ok(words) => assert_eq!(words, expected, "lane {lane}"),
            Err(error) => {
                assert_eq!(lane % 8, 0);
                assert!(error.contains("never written"), "{error}");
            }
        }
    }
    let traffic = run.cluster.traffic();
    assert_eq!((traffic.read(RankId(0), RankId(0)), traffic.written(RankId(0), RankId(1))), (28 * 16, 28 * 16));
}

#[test]
fn lanes_that_do_not_take_part_may_be_beyond_the_end() {
    let mut run = prepared(20);
    run.run(&format!("setp.lt.u32 %p1, %r1, 20; {COPY}")).unwrap();
    assert_eq!(run.lane(19), Ok((76..80).collect()));
    let error = run.run(&format!("setp.lt.u32 %p1, %r1, 21; {COPY}")).unwrap_err().to_string();
    assert!(error.contains("out of bounds: byte 320 of `from` of rank 0"), "{error}");
    assert!(error.contains("lane 20"), "{error}");
}

#[test]
fn one_uninitialised_byte_of_one_lane_is_found_in_every_pattern() {
    let load = |address: &str| format!("@%p1 ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [{address}];");
    let scattered = "xor.b32 %r3, %r1, 5; mul.wide.u32 %rd7, %r3, 16; add.u64 %rd7, %rd2, %rd7;";
    for (prelude, address, lane) in
        [("", "%rd6", 9), (scattered, "%rd7", 9 ^ 5), ("add.u64 %rd8, %rd2, 144;", "%rd8", 1)]
    {
        let mut run = prepared(32);
        let mut bytes = vec![1; 32 * 16];
        run.cluster.write(run.to, &bytes[..9 * 16 + 3]).unwrap();
        run.cluster.write(run.to.offset(9 * 16 + 4), &bytes.split_off(9 * 16 + 4)).unwrap();
        let used = "@%p1 add.u32 %r4, %r4, 1; @%p1 st.global.u32 [%rd6], %r4;";
        let error = run.run(&format!("{prelude}{}{used}", load(address))).unwrap_err().to_string();
        assert!(error.contains("`to+147` of rank 1, which was never written"), "{error}");
        assert!(error.contains(&format!("lane {lane},")), "{error}");
    }
}

#[test]
fn scattered_lanes_read_and_write_their_own_elements() {
    let mut run = prepared(32);
    run.run(
        "xor.b32 %r3, %r1, 21; mul.wide.u32 %rd7, %r3, 16; add.u64 %rd8, %rd1, %rd7; add.u64 %rd9, %rd2, %rd7;
         ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd8];
         st.global.v4.b32 [%rd9], {%r4, %r5, %r6, %r1};",
    )
    .unwrap();
    for lane in 0..32 {
        assert_eq!(run.lane(lane), Ok(vec![lane * 4, lane * 4 + 1, lane * 4 + 2, lane ^ 0b1_0101]), "lane {lane}");
    }
}

#[test]
fn of_several_lanes_that_store_to_one_place_the_last_one_wins() {
    let mut run = prepared(32);
    run.run("@%p1 st.global.v4.b32 [%rd2], {%r1, %r1, %r1, %r1};").unwrap();
    assert_eq!(run.lane(0), Ok(vec![31; 4]));
    let traffic = run.cluster.traffic();
    assert_eq!(traffic.written(RankId(0), RankId(1)), 28 * 16);
}

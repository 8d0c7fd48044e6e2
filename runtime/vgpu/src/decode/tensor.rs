//! Copies of tensors, and what is done to their maps.

use super::memory::atomic_kind;
use super::modifiers::Modifiers;
use super::op::{FenceKind, MapOp, Op, Reg, Space, TensorOp};
use super::{Decoded, Decoder};
use crate::memory::order::Order;
use crate::memory::tensor::MapField;
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

const DIMENSIONS: [&str; 5] = ["1d", "2d", "3d", "4d", "5d"];
/// Bytes of a tensor map.
const MAP_BYTES: i128 = 128;

impl Decoder<'_> {
    /// Number of dimensions, and how the copy goes through the tensor.
    fn tensor_mode(&mut self, m: &mut Modifiers) -> Decoded<usize> {
        let Some(name) = m.one_of(&DIMENSIONS) else { return self.fail("needs .1d, .2d, .3d, .4d or .5d") };
        let others = ["im2col", "im2col::w", "im2col::w::128", "im2col_no_offs", "tile::gather4", "tile::scatter4"];
        if let Some(other) = m.one_of(&others) {
            return self.fail(format!("`.{other}` is not known here: tensors are copied as tiles"));
        }
        m.take("tile");
        Ok(DIMENSIONS.iter().position(|other| *other == name).map_or(0, |at| at + 1))
    }

    /// `[map, {c0, …}]`: the address of the map and the coordinates.
    fn tensor(&mut self, operand: &Operand, dimensions: usize) -> Decoded<((Reg, i64), Vec<Reg>)> {
        let Operand::Tensor(map, coordinates) = operand else {
            return self.fail("expected a tensor map and coordinates in brackets");
        };
        if coordinates.len() != dimensions {
            return self.fail(format!("needs {dimensions} coordinates, here are {}", coordinates.len()));
        }
        let map = self.base(map, Space::Generic)?;
        let coordinates = coordinates.iter().map(|operand| self.source(operand, ScalarType::S32));
        let coordinates = coordinates.collect::<Decoded<Vec<Reg>>>()?;
        Ok((map, coordinates))
    }

    pub(super) fn tensor_copy(&mut self, reduces: bool, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        m.take("tensor");
        if m.take("prefetch") {
            let dimensions = self.tensor_mode(m)?;
            if reduces || !m.take("L2") || self.state_space(m)? != Space::Global {
                return self.fail("needs .L2.global");
            }
            let policy = m.cache_hints();
            self.expect_count(operands, 1 + usize::from(policy))?;
            self.tensor(&operands[0], dimensions)?;
            self.emit(Op::Nothing);
            return Ok(());
        }
        let dimensions = self.tensor_mode(m)?;
        let (to, from) = (self.state_space(m)?, self.state_space(m)?);
        let loads = match (to, from) {
            (Space::Shared | Space::Cluster, Space::Global) if !reduces => true,
            (Space::Global, Space::Shared) => false,
            _ => return self.fail("no copy of a tensor between these state spaces"),
        };
        let signals = m.take("mbarrier::complete_tx::bytes");
        if signals == m.take("bulk_group") {
            return self.fail("needs .mbarrier::complete_tx::bytes or .bulk_group");
        }
        if signals != loads {
            return self.fail("this direction completes otherwise");
        }
        let multicast = m.take("multicast::cluster");
        if multicast && to != Space::Cluster {
            return self.fail("`.multicast::cluster` is for copies from .global to .shared::cluster");
        }
        if m.take("cta_group::2") {
            return self.fail("`.cta_group::2` is not known here");
        }
        if m.take("cta_group::1") && !loads {
            return self.fail("`.cta_group::1` is for copies to shared memory");
        }
        let reduce = if reduces {
            match atomic_kind(m) {
                Some(kind) => Some(kind),
                None => return self.fail("the operation is missing"),
            }
        } else {
            None
        };
        let policy = m.cache_hints();
        let count = if loads { 3 } else { 2 };
        self.expect_count(operands, count + usize::from(multicast) + usize::from(policy))?;
        if policy {
            self.source(&operands[count + usize::from(multicast)], ScalarType::B64)?;
        }
        let multicast = if multicast { Some(self.source(&operands[count], ScalarType::B16)?) } else { None };
        let (tensor, at) = if loads { (&operands[1], &operands[0]) } else { (&operands[0], &operands[1]) };
        let ((map, map_offset), coordinates) = self.tensor(tensor, dimensions)?;
        let space = if to == Space::Cluster { Space::Cluster } else { Space::Shared };
        let (shared, shared_offset) = self.base(at, space)?;
        let mbarrier = if loads { Some(self.base(&operands[2], space)?) } else { None };
        self.emit(Op::Tensor(Box::new(TensorOp {
            map,
            map_offset,
            coordinates,
            loads,
            space,
            shared,
            shared_offset,
            mbarrier,
            multicast,
            reduce,
        })));
        Ok(())
    }

    /// `tensormap.replace` and `tensormap.cp_fenceproxy`.
    pub(super) fn tensor_map(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        if m.take("cp_fenceproxy") {
            return self.copy_and_release(m, operands);
        }
        if !m.take("replace") || !m.take("tile") {
            return self.fail("needs .replace.tile or .cp_fenceproxy");
        }
        let fields = [
            "global_address",
            "rank",
            "box_dim",
            "global_dim",
            "global_stride",
            "element_stride",
            "elemtype",
            "interleave_layout",
            "swizzle_mode",
            "swizzle_atomicity",
            "fill_mode",
        ];
        let Some(name) = m.one_of(&fields) else { return self.fail("the field is missing") };
        let space = self.state_space(m)?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return self.fail("a tensor map is in .global or .shared::cta");
        }
        if !m.take("b1024") {
            return self.fail("needs .b1024");
        }
        let long = matches!(name, "global_address" | "global_stride");
        let element = if long { ScalarType::B64 } else { ScalarType::B32 };
        self.only_type(m, element)?;
        let of_dimension = matches!(name, "box_dim" | "global_dim" | "global_stride" | "element_stride");
        self.expect_count(operands, 2 + usize::from(of_dimension))?;
        let dimension = match operands[1] {
            Operand::Integer(number @ 0..=4) => number as u8,
            _ if of_dimension => return self.fail("the dimension is a number from 0 to 4"),
            _ => 0,
        };
        let literal =
            matches!(name, "elemtype" | "interleave_layout" | "swizzle_mode" | "swizzle_atomicity" | "fill_mode");
        let value = &operands[operands.len() - 1];
        match value {
            Operand::Integer(0) => {}
            Operand::Integer(_) if matches!(name, "interleave_layout" | "swizzle_atomicity") => {
                return self.fail("only 0 is known here: no interleaving, and chunks of 16 bytes");
            }
            Operand::Integer(4..) if name == "swizzle_mode" => {
                return self.fail("only 0 to 3 are known here: none, and 32, 64 and 128 bytes");
            }
            Operand::Integer(_) => {}
            _ if literal => return self.fail("the value of this field is a literal"),
            _ => {}
        }
        let field = match name {
            "global_address" => MapField::Address,
            "rank" => MapField::Rank,
            "box_dim" => MapField::BoxDim(dimension),
            "global_dim" => MapField::GlobalDim(dimension),
            "global_stride" if dimension < 4 => MapField::GlobalStride(dimension),
            "global_stride" => return self.fail("a tensor has strides 0 to 3"),
            "element_stride" => MapField::ElementStride(dimension),
            "elemtype" => MapField::Element,
            "interleave_layout" => MapField::Interleave,
            "swizzle_mode" => MapField::Swizzle,
            "swizzle_atomicity" => MapField::Atomicity,
            _ => MapField::Fill,
        };
        let value = self.source(value, element)?;
        let place = self.place(&operands[0], space)?;
        self.emit(Op::Map(Box::new(MapOp::Replace { place, field, value })));
        Ok(())
    }

    /// `tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.SCOPE.sync.aligned [dst], [src], 128;`
    fn copy_and_release(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        if self.state_space(m)? != Space::Global || self.state_space(m)? != Space::Shared {
            return self.fail("copies from .shared::cta to .global");
        }
        if !m.take("tensormap::generic") || m.order() != Some(Order::Release) {
            return self.fail("needs .tensormap::generic.release");
        }
        let Some(scope) = m.scope() else { return self.fail("the scope is missing") };
        if !m.take("sync") || !m.take("aligned") {
            return self.fail("needs .sync.aligned");
        }
        self.expect_count(operands, 3)?;
        self.map_bytes(&operands[2])?;
        let target = self.place(&operands[0], Space::Global)?;
        let source = self.place(&operands[1], Space::Shared)?;
        let members = self.source(&Operand::Integer(0xffff_ffff), ScalarType::B32)?.row;
        self.emit(Op::Map(Box::new(MapOp::CopyAndRelease { target, source, scope, members })));
        Ok(())
    }

    /// `fence.proxy.tensormap::generic.release.SCOPE`, `….acquire.SCOPE [addr], 128`
    pub(super) fn map_fence(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let order = m.order();
        let Some(scope) = m.scope() else { return self.fail("the scope is missing") };
        match order {
            Some(Order::Release) => self.emit(Op::Fence { kind: FenceKind::TensorMap, scope }),
            Some(Order::Acquire) => {
                self.map_bytes(&operands[1])?;
                let place = self.place(&operands[0], Space::Generic)?;
                self.emit(Op::Map(Box::new(MapOp::Acquire { place, scope })));
            }
            _ => return self.fail("needs .acquire or .release"),
        }
        Ok(())
    }

    fn map_bytes(&self, operand: &Operand) -> Decoded<()> {
        if *operand == Operand::Integer(MAP_BYTES) { Ok(()) } else { self.fail("the size is 128") }
    }
}

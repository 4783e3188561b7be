//! Runs every operation on a group of ranks in threads, and compares the results with the plain definition.

use half::{bf16, f16};
use lockstep_collectives::{CollectiveError, Communicator, Slice, SliceMut};

/// Element type that tests can make and sum.
pub trait Element: Copy + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    fn from_bits(bits: u32) -> Self;
    /// Returns the sum in rank order, as the trait `Communicator` defines it.
    fn sum(ranks: &[Self]) -> Self;
    fn slice(data: &[Self]) -> Slice<'_>;
    fn slice_mut(data: &mut [Self]) -> SliceMut<'_>;
    /// Returns the bits, for a comparison to the last bit.
    fn bits(self) -> u32;
}

/// Makes a number whose sums round: about 2^-3 to 2^4, of either sign.
fn make_number(bits: u32) -> f32 {
    let magnitude = f32::from_bits(((124 + (bits >> 24) % 7) << 23) | (bits & 0x7f_ffff));
    if bits & 0x80_0000 == 0 { magnitude } else { -magnitude }
}

macro_rules! element {
    ($type:ty, $variant:ident, $from:expr, $sum:expr, $bits:expr) => {
        impl Element for $type {
            fn from_bits(bits: u32) -> Self {
                $from(bits)
            }
            fn sum(ranks: &[Self]) -> Self {
                $sum(ranks)
            }
            fn slice(data: &[Self]) -> Slice<'_> {
                Slice::$variant(data)
            }
            fn slice_mut(data: &mut [Self]) -> SliceMut<'_> {
                SliceMut::$variant(data)
            }
            fn bits(self) -> u32 {
                $bits(self)
            }
        }
    };
}

fn fold(ranks: impl Iterator<Item = f32>) -> f32 {
    ranks.reduce(|sum, next| sum + next).unwrap_or_default()
}

element!(f32, F32, make_number, |r: &[f32]| fold(r.iter().copied()), f32::to_bits);
element!(
    bf16,
    Bf16,
    |b| bf16::from_f32(make_number(b)),
    |r: &[bf16]| bf16::from_f32(fold(r.iter().map(|x| x.to_f32()))),
    |x: bf16| u32::from(x.to_bits())
);
element!(
    f16,
    F16,
    |b| f16::from_f32(make_number(b)),
    |r: &[f16]| f16::from_f32(fold(r.iter().map(|x| x.to_f32()))),
    |x: f16| u32::from(x.to_bits())
);
element!(
    i32,
    I32,
    |b: u32| b.cast_signed(),
    |r: &[i32]| r.iter().copied().reduce(i32::wrapping_add).unwrap_or_default(),
    i32::cast_unsigned
);
element!(u32, U32, |b| b, |r: &[u32]| r.iter().copied().reduce(u32::wrapping_add).unwrap_or_default(), |x| x);

/// Makes the operand of rank `rank`.
pub fn make_input<T: Element>(rank: usize, len: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9u32.wrapping_mul(rank as u32 + 1);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        T::from_bits(state.wrapping_mul(0x85eb_ca6b))
    };
    (0..len).map(next).collect()
}

/// Runs `body` on every rank, each in its own thread. Returns the results in rank order.
pub fn on_ranks<C: Communicator, R: Send>(group: &mut [C], body: impl Fn(&mut C) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = group.iter_mut().map(|rank| scope.spawn(move || body(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_same<T: Element>(got: &[T], expected: &[T], label: &str) {
    assert_eq!(got.len(), expected.len(), "{label}");
    if let Some(index) = got.iter().zip(expected).position(|(g, e)| g.bits() != e.bits()) {
        panic!("{label}: element {index} is {:?}, not {:?}", got[index], expected[index]);
    }
}

/// Runs every operation with `len` elements on all ranks at once, and checks the results.
pub fn exercise<T: Element, C: Communicator>(group: &mut [C], len: usize) {
    let ranks = group.len();
    let inputs: Vec<Vec<T>> = (0..ranks).map(|rank| make_input(rank, len)).collect();
    let sum: Vec<T> = (0..len).map(|at| T::sum(&inputs.iter().map(|input| input[at]).collect::<Vec<_>>())).collect();
    let counts: Vec<usize> = (0..ranks).map(|rank| (len * (rank + 1)).div_ceil(ranks) % (len + 1)).collect();
    let gathered: Vec<T> = (0..ranks).flat_map(|rank| inputs[rank][..counts[rank]].to_vec()).collect();
    let results = on_ranks(group, |comm| -> Result<(), CollectiveError> {
        let rank = comm.group().rank();
        let label = |operation: &str| format!("{operation} of {len}, rank {rank} of {ranks}");
        let mut data = inputs[rank].clone();
        comm.all_reduce_sum(T::slice_mut(&mut data))?;
        assert_same(&data, &sum, &label("all_reduce"));
        let mut out = vec![T::from_bits(0); gathered.len()];
        comm.all_gather(T::slice(&inputs[rank][..counts[rank]]), &counts, T::slice_mut(&mut out))?;
        assert_same(&out, &gathered, &label("all_gather"));
        let root = len % ranks;
        let mut data = inputs[rank].clone();
        comm.broadcast(root, T::slice_mut(&mut data))?;
        assert_same(&data, &inputs[root], &label("broadcast"));
        comm.barrier()?;
        // Each rank sends to its right neighbour. Even ranks send first, so that no two ranks wait for each other.
        if ranks > 1 {
            let (right, left) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
            let mut data = inputs[rank].clone();
            let own = inputs[rank].clone();
            if rank % 2 == 0 {
                comm.send(right, T::slice(&own))?;
                comm.recv(left, T::slice_mut(&mut data))?;
            } else {
                comm.recv(left, T::slice_mut(&mut data))?;
                comm.send(right, T::slice(&own))?;
            }
            assert_same(&data, &inputs[left], &label("recv"));
        }
        Ok(())
    });
    for (rank, result) in results.into_iter().enumerate() {
        assert_eq!(result, Ok(()), "rank {rank} of {ranks}, {len} elements");
    }
}

/// Runs [`exercise`] for every element type.
pub fn exercise_all<C: Communicator>(group: &mut [C], len: usize) {
    exercise::<f32, C>(group, len);
    exercise::<bf16, C>(group, len);
    exercise::<f16, C>(group, len);
    exercise::<i32, C>(group, len);
    exercise::<u32, C>(group, len);
}

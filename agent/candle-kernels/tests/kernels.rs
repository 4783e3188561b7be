//! Each kernel on the emulated GPU, against the same in f64 on the CPU. The arguments are those that candle-core 0.11.1 passes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_kernels::{AFFINE, BINARY, CAST, FILL, INDEXING, Module, REDUCE, TERNARY, UNARY};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg as _,
    ValidAsZeroBits,
};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};

/// A number of a tensor, as f64.
trait Number: DeviceRepr + ValidAsZeroBits + Copy + Unpin + 'static {
    const NAME: &'static str;
    /// Largest error of a function, relative to its result and 1.
    const TOLERANCE: f64;
    fn of(value: f64) -> Self;
    fn value(self) -> f64;
}

macro_rules! number {
    ($type:ty, $name:literal, $tolerance:expr, |$value:ident| $from:expr, |$own:ident| $to:expr) => {
        impl Number for $type {
            const NAME: &'static str = $name;
            const TOLERANCE: f64 = $tolerance;
            fn of($value: f64) -> Self {
                $from
            }
            fn value(self) -> f64 {
                let $own = self;
                $to
            }
        }
    };
}

number!(f32, "f32", 1e-6, |value| value as f32, |own| own.into());
number!(f16, "f16", 1e-3, |value| f16::from_f32(value as f32), |own| own.to_f64());
number!(bf16, "bf16", 8e-3, |value| bf16::from_f32(value as f32), |own| own.to_f64());
number!(u8, "u8", 0.0, |value| value as u8, |own| own.into());
number!(u32, "u32", 0.0, |value| value as u32, |own| own.into());
number!(i64, "i64", 0.0, |value| value as i64, |own| own as f64);

/// Runs the body once for each type, which it knows as `T`.
macro_rules! for_types {
    ([$($type:ty),*], $body:block) => {
        $({
            type T = $type;
            $body
        })*
    };
}

struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<usize, Arc<CudaModule>>>,
}

impl Gpu {
    fn new() -> Self {
        emulated_cuda::testing::load(1);
        let context = CudaContext::new(0).expect("a context");
        // SAFETY: there is one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().expect("a stream");
        Self { context, stream, modules: Mutex::default() }
    }

    fn upload<T: Number>(&self, values: &[f64]) -> CudaSlice<T> {
        let values: Vec<T> = values.iter().map(|value| T::of(*value)).collect();
        self.stream.clone_htod(&values).expect("an upload")
    }

    fn download<T: Number>(&self, values: &CudaSlice<T>) -> Vec<f64> {
        let values = self
            .stream
            .clone_dtoh(values)
            .unwrap_or_else(|error| panic!("{error}: {}", emulated_cuda::testing::faults()));
        values.into_iter().map(Number::value).collect()
    }

    fn function(&self, module: &Module, name: &str) -> CudaFunction {
        let mut modules = self.modules.lock().expect("no panic");
        let loaded = modules
            .entry(module.index())
            .or_insert_with(|| self.context.load_module(Ptx::from_src(module.ptx())).expect("a module"));
        loaded.load_function(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// Launches a kernel with a thread for each of `count` elements, or with a configuration of its own.
macro_rules! launch {
    ($gpu:expr, $module:expr, $name:expr, $count:expr, [$($argument:expr),* $(,)?]) => {
        launch!($gpu, $module, $name, config LaunchConfig::for_num_elems($count as u32), [$($argument),*])
    };
    ($gpu:expr, $module:expr, $name:expr, config $config:expr, [$($argument:expr),* $(,)?]) => {{
        let name: &str = &$name;
        let function = $gpu.function($module, name);
        let mut builder = $gpu.stream.launch_builder(&function);
        $(builder.arg($argument);)*
        // SAFETY: the arguments are those of the kernel.
        unsafe { builder.launch($config) }.unwrap_or_else(|error| panic!("{name}: {error}"));
    }};
}

/// Numbers from a fixed sequence, small, with both signs where `T` has them.
fn numbers<T: Number>(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) * 8.0 - 4.0
    };
    (0..count)
        .map(|_| match T::NAME {
            "u8" | "u32" => next().abs().floor() + 1.0,
            "i64" => next().floor(),
            _ => T::of(next()).value(),
        })
        .collect()
}

#[track_caller]
fn assert_close<T: Number>(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / (1.0 + expected.abs());
        assert!(error <= T::TOLERANCE, "{name}_{}: element {index} is {found}, not {expected}", T::NAME);
    }
}

/// A tensor of 6 × 50 elements, and the same transposed.
const ROWS: usize = 6;
const COLUMNS: usize = 50;
const COUNT: usize = ROWS * COLUMNS;
const RANK: usize = 2;

/// Dimensions and strides of a transposed tensor of `ROWS` × `COLUMNS`, and the place of its element `i`.
const TRANSPOSED: [usize; 4] = [COLUMNS, ROWS, 1, COLUMNS];
fn transposed(i: usize) -> usize {
    i % ROWS * COLUMNS + i / ROWS
}

#[test]
fn functions_of_one_tensor() {
    let gpu = Gpu::new();
    let erf = |v: f64| {
        // The series of the error function, which converges for all numbers here.
        let terms = (0..200).scan(v, |term, n: u32| {
            let value = *term / f64::from(2 * n + 1);
            *term *= -v * v / f64::from(n + 1);
            Some(value)
        });
        terms.sum::<f64>() * 2.0 / std::f64::consts::PI.sqrt()
    };
    let functions: [(&str, &dyn Fn(f64) -> f64); 19] = [
        ("uexp", &f64::exp),
        ("ulog", &|v: f64| v.ln()),
        ("usin", &f64::sin),
        ("ucos", &f64::cos),
        ("utanh", &f64::tanh),
        ("uneg", &|v| -v),
        ("urecip", &|v| 1.0 / v),
        ("usqr", &|v| v * v),
        ("usqrt", &f64::sqrt),
        ("ugelu", &|v| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * v * (1.0 + 0.044715 * v * v)).tanh())),
        ("ugelu_erf", &|v| 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2))),
        ("uerf", &erf),
        ("usilu", &|v| v / (1.0 + (-v).exp())),
        ("uabs", &f64::abs),
        ("uceil", &f64::ceil),
        ("ufloor", &f64::floor),
        ("uround", &f64::round),
        ("urelu", &|v| v.max(0.0)),
        ("usign", &f64::signum),
    ];
    for_types!([f32, f16, bf16], {
        let values: Vec<f64> = numbers::<T>(COUNT, 1);
        for (name, function) in &functions {
            let needs_positive = ["ulog", "usqrt"].contains(name);
            let values: Vec<f64> = values.iter().map(|v| if needs_positive { v.abs() + 0.5 } else { *v }).collect();
            let values: Vec<f64> = values.into_iter().map(|v| T::of(v).value()).collect();
            let (x, info) = (gpu.upload::<T>(&values), gpu.stream.clone_htod(&TRANSPOSED).expect("an upload"));
            let mut y = gpu.stream.alloc_zeros::<T>(COUNT).expect("memory");
            launch!(gpu, &UNARY, format!("{name}_{}", T::NAME), COUNT, [&COUNT, &RANK, &info, &x, &mut y]);
            let expected: Vec<f64> = (0..COUNT).map(|i| function(values[transposed(i)])).collect();
            assert_close::<T>(name, &gpu.download(&y), &expected);
        }
    });
}

#[test]
fn functions_with_a_parameter_and_copies() {
    let gpu = Gpu::new();
    let null = 0_usize;
    for_types!([f32, f16, bf16], {
        let values: Vec<f64> = numbers::<T>(COUNT, 2).into_iter().map(f64::abs).collect();
        let x = gpu.upload::<T>(&values);
        let run = |module: &Module, name: &str, parameters: &[T]| {
            let mut y = gpu.stream.alloc_zeros::<T>(COUNT).expect("memory");
            let name = format!("{name}_{}", T::NAME);
            match parameters {
                [one] => launch!(gpu, module, name, COUNT, [&COUNT, &RANK, &null, one, &x, &mut y]),
                more => launch!(gpu, module, name, COUNT, [&COUNT, &RANK, &null, &x, &mut y, &more[0], &more[1]]),
            }
            gpu.download(&y)
        };
        let of = |function: &dyn Fn(f64) -> f64| values.iter().map(|v| function(*v)).collect::<Vec<_>>();
        let number = T::of;
        assert_close::<T>("affine", &run(&AFFINE, "affine", &[number(2.5), number(-1.0)]), &of(&|v| v * 2.5 - 1.0));
        assert_close::<T>("upowf", &run(&UNARY, "upowf", &[number(1.5)]), &of(&|v| v.powf(1.5)));
        assert_close::<T>("uelu", &run(&UNARY, "uelu", &[number(0.5)]), &of(&|v| v));
    });
    for_types!([f32, f16, bf16, u8, u32, i64], {
        let values = numbers::<T>(COUNT, 3);
        let (x, info) = (gpu.upload::<T>(&values), gpu.stream.clone_htod(&TRANSPOSED).expect("an upload"));
        let mut y = gpu.stream.alloc_zeros::<T>(COUNT).expect("memory");
        launch!(gpu, &UNARY, format!("ucopy_{}", T::NAME), COUNT, [&COUNT, &RANK, &info, &x, &mut y]);
        let expected: Vec<f64> = (0..COUNT).map(|i| values[transposed(i)]).collect();
        assert_close::<T>("ucopy", &gpu.download(&y), &expected);
        // Columns 10 … 39 of each row go to the end of rows of 60.
        let (rows, columns, from, to) = (ROWS as u32, 30_u32, COLUMNS as u32, 60_u32);
        let mut wide = gpu.upload::<T>(&[3.0; ROWS * 60]);
        launch!(gpu, &FILL, format!("copy2d_{}", T::NAME), ROWS * 30, [&x, &mut wide, &rows, &columns, &from, &to]);
        let expected: Vec<f64> =
            (0..ROWS * 60).map(|i| if i % 60 < 30 { values[i / 60 * COLUMNS + i % 60] } else { 3.0 }).collect();
        assert_close::<T>("copy2d", &gpu.download(&wide), &expected);
        let five = T::of(5.0);
        launch!(gpu, &FILL, format!("const_set_{}", T::NAME), COUNT, [&COUNT, &RANK, &null, &five, &mut y]);
        assert_close::<T>("const_set", &gpu.download(&y), &[5.0; COUNT]);
    });
}

#[test]
fn operations_of_two_tensors() {
    let gpu = Gpu::new();
    type Named<R> = (&'static str, fn(f64, f64) -> R);
    let operations: [Named<f64>; 6] = [
        ("badd", |a, b| a + b),
        ("bsub", |a, b| a - b),
        ("bmul", |a, b| a * b),
        ("bdiv", |a, b| a / b),
        ("bmaximum", f64::max),
        ("bminimum", f64::min),
    ];
    let comparisons: [Named<bool>; 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    // The second tensor is one row for all.
    let info = gpu.stream.clone_htod(&[ROWS, COLUMNS, COLUMNS, 1, 0, 1]).expect("an upload");
    for_types!([f32, f16, bf16, u8, u32, i64], {
        let is_float = T::TOLERANCE > 0.0;
        // Integers stay positive: the first is at least the second, so no difference is negative.
        let right: Vec<f64> =
            numbers::<T>(COLUMNS, 5).into_iter().map(|v| if is_float { v } else { v.abs() + 1.0 }).collect();
        let left: Vec<f64> = numbers::<T>(COUNT, 4)
            .into_iter()
            .enumerate()
            .map(|(i, v)| if is_float { v } else { v.abs() + right[i % COLUMNS] })
            .collect();
        let (a, b) = (gpu.upload::<T>(&left), gpu.upload::<T>(&right));
        for (name, operation) in operations {
            let mut y = gpu.stream.alloc_zeros::<T>(COUNT).expect("memory");
            launch!(gpu, &BINARY, format!("{name}_{}", T::NAME), COUNT, [&COUNT, &RANK, &info, &a, &b, &mut y]);
            let expected = (0..COUNT).map(|i| operation(left[i], right[i % COLUMNS]));
            let expected: Vec<f64> = expected.map(|v| if is_float { v } else { v.floor() }).collect();
            assert_close::<T>(name, &gpu.download(&y), &expected);
        }
        for (name, comparison) in comparisons {
            let mut y = gpu.stream.alloc_zeros::<u8>(COUNT).expect("memory");
            launch!(gpu, &BINARY, format!("{name}_{}", T::NAME), COUNT, [&COUNT, &RANK, &info, &a, &b, &mut y]);
            let expected: Vec<f64> =
                (0..COUNT).map(|i| f64::from(u8::from(comparison(left[i], right[i % COLUMNS])))).collect();
            assert_close::<u8>(name, &gpu.download(&y), &expected);
        }
    });
}

#[test]
fn casts_round_floats_and_cut_fractions_off() {
    let gpu = Gpu::new();
    let null = 0_usize;
    fn cast<S: Number, D: Number>(gpu: &Gpu, null: usize) {
        // Positive numbers that every type has, but for their fractions.
        let values: Vec<f64> = numbers::<S>(COUNT, 6).into_iter().map(f64::abs).collect();
        let x = gpu.upload::<S>(&values);
        let mut y = gpu.stream.alloc_zeros::<D>(COUNT).expect("memory");
        let name = format!("cast_{}_{}", S::NAME, D::NAME);
        launch!(gpu, &CAST, name, COUNT, [&COUNT, &RANK, &null, &x, &mut y]);
        let expected: Vec<f64> = values.iter().map(|value| D::of(*value).value()).collect();
        assert_eq!(gpu.download(&y), expected, "{name}");
    }
    for_types!([f32, f16, bf16, u8, u32, i64], {
        type S = T;
        for_types!([f32, f16, bf16, u8, u32, i64], { cast::<S, T>(&gpu, null) });
    });
}

#[test]
fn rows_and_elements_by_number() {
    let gpu = Gpu::new();
    const IDS: [f64; 4] = [3.0, 0.0, 5.0, 3.0];
    fn select<I: Number, T: Number>(gpu: &Gpu, nothing: f64) {
        let values = numbers::<T>(COUNT, 7);
        let x = gpu.upload::<T>(&values);
        let ids: Vec<f64> = IDS.into_iter().chain([nothing]).collect();
        let (ids_of, info) = (gpu.upload::<I>(&ids), gpu.stream.clone_htod(&[ids.len(), 1]).expect("an upload"));
        let (count, rank, left, size, numbers, right) =
            (ids.len() * COLUMNS, 1_usize, 1_usize, ROWS, ids.len(), COLUMNS);
        let mut y = gpu.stream.alloc_zeros::<T>(count).expect("memory");
        launch!(
            gpu,
            &INDEXING,
            format!("is_{}_{}", I::NAME, T::NAME),
            count,
            [&count, &rank, &info, &ids_of, &x, &mut y, &left, &size, &numbers, &right]
        );
        let row = |id: f64, column: usize| if id == nothing { 0.0 } else { values[id as usize * COLUMNS + column] };
        let expected: Vec<f64> = (0..count).map(|i| row(ids[i / COLUMNS], i % COLUMNS)).collect();
        assert_close::<T>("is", &gpu.download(&y), &expected);
        // An element for each column: the numbers have the shape of the result.
        let picks: Vec<f64> = (0..COLUMNS).map(|column| IDS[column % IDS.len()]).collect();
        let (picks_of, count, numbers) = (gpu.upload::<I>(&picks), COLUMNS, 1_usize);
        let mut y = gpu.stream.alloc_zeros::<T>(count).expect("memory");
        launch!(
            gpu,
            &INDEXING,
            format!("gather_{}_{}", I::NAME, T::NAME),
            count,
            [&count, &picks_of, &x, &mut y, &left, &size, &numbers, &right]
        );
        let expected: Vec<f64> = (0..count).map(|column| row(picks[column], column)).collect();
        assert_close::<T>("gather", &gpu.download(&y), &expected);
    }
    for_types!([f32, f16, bf16, u8, u32, i64], {
        select::<u8, T>(&gpu, 255.0);
        select::<u32, T>(&gpu, f64::from(u32::MAX));
        select::<i64, T>(&gpu, i64::MAX as f64);
    });
}

#[test]
fn sums_and_extremes() {
    let gpu = Gpu::new();
    let extreme = |row: &[f64], is_max: bool| {
        let better = |a: f64, b: f64| if is_max { a > b } else { a < b };
        (1..row.len()).fold(0, |best, i| if better(row[i], row[best]) { i } else { best })
    };
    // Rows of 50, of 7 and of 1: below and above a warp, and no power of two.
    for per in [50_usize, 6, 1] {
        let rows = COUNT / per;
        for_types!([f32, f16, bf16, u8, u32, i64], {
            let values: Vec<f64> = numbers::<T>(COUNT, 8 + per as u64).into_iter().collect();
            let (x, info) = (gpu.upload::<T>(&values), gpu.stream.clone_htod(&[rows, per, per, 1]).expect("an upload"));
            let threads = per.min(1024).next_power_of_two() as u32;
            let config =
                LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
            let rows_of = || values.chunks(per);
            let results: [(&str, Vec<f64>); 3] = [
                ("fast_sum", rows_of().map(|row| row.iter().sum()).collect()),
                ("fast_min", rows_of().map(|row| row[extreme(row, false)]).collect()),
                ("fast_max", rows_of().map(|row| row[extreme(row, true)]).collect()),
            ];
            for (name, expected) in &results {
                let mut y = gpu.stream.alloc_zeros::<T>(rows).expect("memory");
                launch!(gpu, &REDUCE, format!("{name}_{}", T::NAME), config config, [&COUNT, &per, &RANK, &info, &x, &mut y]);
                assert_close::<T>(name, &gpu.download(&y), expected);
            }
            for (name, is_max) in [("fast_argmin", false), ("fast_argmax", true)] {
                let mut y = gpu.stream.alloc_zeros::<u32>(rows).expect("memory");
                launch!(gpu, &REDUCE, format!("{name}_{}", T::NAME), config config, [&COUNT, &per, &RANK, &info, &x, &mut y]);
                let expected: Vec<f64> = rows_of().map(|row| extreme(row, is_max) as f64).collect();
                assert_close::<u32>(name, &gpu.download(&y), &expected);
            }
            let mut y = gpu.stream.alloc_zeros::<T>(rows).expect("memory");
            launch!(gpu, &REDUCE, format!("fast_sum_small_{}", T::NAME), rows, [&rows, &per, &RANK, &info, &x, &mut y]);
            assert_close::<T>("fast_sum_small", &gpu.download(&y), &results[0].1);
        });
    }
}

#[test]
fn conditions_choose() {
    let gpu = Gpu::new();
    fn choose<C: Number, T: Number>(gpu: &Gpu) {
        let conditions: Vec<f64> = (0..COUNT).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let (yes, no) = (numbers::<T>(COUNT, 9), numbers::<T>(COLUMNS, 10));
        let (c, a, b) = (gpu.upload::<C>(&conditions), gpu.upload::<T>(&yes), gpu.upload::<T>(&no));
        let info = gpu.stream.clone_htod(&[ROWS, COLUMNS, COLUMNS, 1, COLUMNS, 1, 0, 1]).expect("an upload");
        let mut y = gpu.stream.alloc_zeros::<T>(COUNT).expect("memory");
        launch!(
            gpu,
            &TERNARY,
            format!("where_{}_{}", C::NAME, T::NAME),
            COUNT,
            [&COUNT, &RANK, &info, &c, &a, &b, &mut y]
        );
        let expected: Vec<f64> = (0..COUNT).map(|i| if i % 3 == 0 { yes[i] } else { no[i % COLUMNS] }).collect();
        assert_close::<T>("where", &gpu.download(&y), &expected);
    }
    for_types!([f32, f16, bf16, u8, u32, i64], {
        choose::<u8, T>(&gpu);
        choose::<u32, T>(&gpu);
        choose::<i64, T>(&gpu);
    });
}

//! Faults that the emulator must find, and kernels without fault that it must let through.

mod common;

use common::Device;

const HEAD: &str = ".reg .b32 %r<20>; .reg .b64 %d<20>; .reg .pred %p<8>; .shared .align 16 .b8 tile[512];\n\
                    ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.s64 %d2, %d0, %d1;\n\
                    mov.u32 %r1, tile; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;\n";

/// Runs a body on 64 threads and 64 words. Returns the words.
fn run(device: &Device, body: &str) -> Result<Vec<u32>, String> {
    let out = device.allocate(&[7_u32; 64]);
    let kernel = format!(".visible .entry k(.param .u64 out) {{\n{HEAD}{body}\n}}");
    device.run(&kernel, [1, 1, 1], [64, 1, 1], 0, &[out])?;
    Ok(device.read(out, 64))
}

#[track_caller]
fn fails(body: &str, words: &[&str]) {
    let fault = run(&Device::default(), body).expect_err("a fault");
    for word in words {
        assert!(fault.contains(word), "no `{word}` in: {fault}");
    }
}

/// Each thread writes its number; another warp reads it.
const NEIGHBOURS: &str = "st.shared.u32 [%r3], %r0; BARRIER\n\
                          xor.b32 %r4, %r2, 128; add.u32 %r4, %r4, %r1; ld.shared.u32 %r5, [%r4];\n\
                          st.global.u32 [%d2], %r5; ret;";

#[test]
fn a_barrier_orders_warps() {
    for seed in 0..4 {
        let device = Device { seed, ..Device::default() };
        let words = run(&device, &NEIGHBOURS.replace("BARRIER", "bar.sync 0;")).unwrap();
        assert!(words.iter().enumerate().all(|(thread, word)| *word == thread as u32 ^ 32), "{words:?}");
    }
}

#[test]
fn a_missing_barrier_is_found() {
    for seed in 0..4 {
        let device = Device { seed, ..Device::default() };
        let fault = run(&device, &NEIGHBOURS.replace("BARRIER", "")).expect_err("a race");
        assert!(fault.contains("without a barrier in between"), "{fault}");
    }
}

#[test]
fn accesses_outside_are_found() {
    fails("ld.global.u32 %r5, [%d2+4]; ret;", &["k: block [0, 0, 0], warp 1, lane 31", "byte 256", "ld.global.u32"]);
    fails("st.global.v4.u32 [%d0+4], {%r0, %r0, %r0, %r0}; ret;", &["16 bytes", "not a multiple"]);
    fails("ld.shared.u32 %r5, [%r1+512]; ret;", &["byte 512 of 512 bytes of shared memory"]);
    fails("mov.u64 %d5, 64; ld.global.u32 %r5, [%d5]; ret;", &["lies in no allocation"]);
}

#[test]
fn memory_that_nobody_wrote_is_a_nan() {
    let words = run(&Device::default(), "ld.shared.u32 %r5, [%r3]; st.global.u32 [%d2], %r5; ret;").unwrap();
    assert!(words.iter().all(|word| f32::from_bits(*word).is_nan()));
}

const COPY: &str = "mov.u64 %d3, %d0; shl.b32 %r6, %r0, 4; setp.gt.u32 %p1, %r0, 15; @%p1 bra END;\n\
                    cvt.u64.u32 %d4, %r6; add.s64 %d4, %d4, %d0; add.u32 %r7, %r1, %r6;\n\
                    cp.async.cg.shared.global [%r7], [%d4], 16; cp.async.commit_group; WAIT\n\
                    ld.shared.u32 %r8, [%r7]; st.global.u32 [%d2], %r8; END: ret;";

#[test]
fn copies_land_at_their_wait() {
    let words = run(&Device::default(), &COPY.replace("WAIT", "cp.async.wait_group 0;")).unwrap();
    assert_eq!(words[..16], [7; 16]);
    let words = run(&Device::default(), &COPY.replace("WAIT", "cp.async.wait_group 1;")).unwrap();
    assert_eq!(words[..16], [u32::MAX; 16], "one group may still be on its way");
}

#[test]
fn shuffles_need_their_lanes() {
    let all = "shfl.sync.bfly.b32 %r5|%p1, %r0, 1, 31, -1; st.global.u32 [%d2], %r5; ret;";
    let words = run(&Device::default(), all).unwrap();
    assert!(words.iter().enumerate().all(|(thread, word)| *word == thread as u32 & 31 ^ 1 | thread as u32 & 32));
    // Lane 0 alone reads lane 1.
    fails(
        "setp.ne.u32 %p1, %r0, 0; @%p1 bra END; shfl.sync.idx.b32 %r5, %r0, 1, 31, 1; END: ret;",
        &["a shuffle from lane 1, which does not take part"],
    );
    // Half of the warp waits for the other half, which has other plans.
    fails(
        "setp.gt.u32 %p1, %r0, 15; @%p1 bra OTHER; shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1; ret;\n\
         OTHER: bar.sync 0; ret;",
        &["waits"],
    );
}

#[test]
fn barriers_need_all_threads() {
    fails(
        "setp.gt.u32 %p1, %r0, 15; @%p1 bra OTHER; bar.sync 0; ret; OTHER: bar.sync 0; ret;",
        &["at different barriers"],
    );
    fails(
        "setp.gt.u32 %p1, %r0, 31; @%p1 bra END; bar.sync 0, 64; END: ret;",
        &["a barrier that other threads never reach"],
    );
    // Threads that have ended are not waited for.
    run(&Device::default(), "setp.gt.u32 %p1, %r0, 31; @%p1 bra END; bar.sync 0; END: ret;").unwrap();
}

#[test]
fn lanes_that_branch_apart_meet_again() {
    let body = "and.b32 %r4, %r0, 3; mov.u32 %r5, 0;\n\
                LOOP: setp.eq.u32 %p1, %r4, 0; @%p1 bra DONE; add.u32 %r5, %r5, %r0; sub.u32 %r4, %r4, 1; bra LOOP;\n\
                DONE: activemask.b32 %r6; popc.b32 %r6, %r6; mad.lo.u32 %r5, %r6, 1000, %r5; st.global.u32 [%d2], %r5; ret;";
    let words = run(&Device::default(), body).unwrap();
    for (thread, word) in words.iter().enumerate() {
        assert_eq!(*word as usize, 32_000 + thread * (thread & 3), "thread {thread}");
    }
}

#[test]
fn functions_switches_and_local_memory_work() {
    let device = Device::default();
    let out = device.allocate(&[0_u32; 64]);
    let kernel = ".func (.param .b32 result) twice(.param .b32 value) { .reg .b32 %r<3>; ld.param.u32 %r1, [value];\n\
                  add.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret; }\n\
                  .visible .entry k(.param .u64 out) { .local .align 8 .b8 depot[16]; .reg .b64 %SP; .reg .b64 %SPL;\n\
                  .reg .b32 %r<9>; .reg .b64 %d<9>; ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x;\n\
                  mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL; mul.wide.u32 %d1, %r0, 4; add.s64 %d2, %d0, %d1;\n\
                  { .param .b32 p0; .param .b32 r0; st.param.b32 [p0], %r0; call.uni (r0), twice, (p0);\n\
                  ld.param.b32 %r3, [r0]; }\n\
                  st.u32 [%SP+8], %r3; and.b32 %r4, %r0, 1; ts: .branchtargets A, B; brx.idx %r4, ts;\n\
                  A: ld.local.u32 %r5, [%SPL+8]; bra END; B: ld.u32 %r5, [%SP+8]; add.u32 %r5, %r5, 1000; END:\n\
                  st.global.u32 [%d2], %r5; ret; }";
    device.run(kernel, [1, 1, 1], [64, 1, 1], 0, &[out]).unwrap();
    for (thread, word) in device.read::<u32>(out, 64).into_iter().enumerate() {
        assert_eq!(word as usize, 2 * thread + 1000 * (thread & 1));
    }
}

#[test]
fn matrices_multiply() {
    // Lane 4g + t holds columns 2t and 2t + 1 of row g. A is the identity, B holds 1 … 128 by rows.
    let body = "mov.u32 %r4, %laneid; shr.u32 %r5, %r4, 2; and.b32 %r6, %r4, 3; shl.b32 %r7, %r6, 1;\n\
                setp.gt.u32 %p1, %r0, 31; @%p1 bra END;\n\
                setp.eq.u32 %p2, %r5, %r7; selp.b32 %r8, 0x3f80, 0, %p2; add.u32 %r9, %r7, 1; setp.eq.u32 %p3, %r5, %r9;\n\
                selp.b32 %r10, 0x3f800000, 0, %p3; or.b32 %r8, %r8, %r10; mov.u32 %r11, 0;\n\
                mad.lo.u32 %r12, %r7, 8, %r5; cvt.rn.f32.u32 %r12, %r12; mad.lo.u32 %r13, %r9, 8, %r5;\n\
                cvt.rn.f32.u32 %r13, %r13; cvt.rn.bf16x2.f32 %r14, %r13, %r12;\n\
                mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r15, %r16, %r17, %r18}, {%r8, %r11, %r11, %r8},\n\
                {%r14, %r14}, {%r11, %r11, %r11, %r11}; cvt.rzi.u32.f32 %r15, %r16; st.global.u32 [%d2], %r15; END: ret;";
    let words = run(&Device::default(), body).unwrap();
    for (lane, word) in words[..32].iter().enumerate() {
        // The second result of a lane is row g, column 2t + 1.
        assert_eq!(*word as usize, lane / 4 * 8 + lane % 4 * 2 + 1, "lane {lane}");
    }
}

#[test]
fn launches_are_checked() {
    let device = Device::default();
    let kernel = ".visible .entry k() .maxntid 64, 1, 1 { ret; }";
    let run = |grid, block, shared| device.run(kernel, grid, block, shared, &[]);
    assert!(run([1, 1, 1], [64, 1, 1], 0).is_ok());
    assert!(run([1, 1, 1], [65, 1, 1], 0).unwrap_err().contains("at most 64"));
    assert!(run([0, 1, 1], [1, 1, 1], 0).unwrap_err().contains("[0, 1, 1] blocks"));
    assert!(run([1, 1, 1], [1, 1, 1], 1 << 20).unwrap_err().contains("shared memory"));
}

#[test]
fn what_is_unknown_is_named() {
    let device = Device::default();
    let fails = |kernel: &str| device.run(kernel, [1, 1, 1], [1, 1, 1], 0, &[]).unwrap_err();
    assert!(fails(".visible .entry k() { wgmma.fence.sync.aligned; ret; }").contains("wgmma.fence.sync.aligned"));
    assert!(fails(".visible .entry other() { ret; }").contains("no such kernel: `k`"));
    assert!(fails(".visible .entry k() { bra NOWHERE; }").contains("NOWHERE"));
}

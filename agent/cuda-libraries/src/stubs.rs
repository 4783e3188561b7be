//! The stubs, in assembly, because each has to pass on arguments that it knows nothing of.

use std::ffi::c_void;
use std::sync::atomic::AtomicPtr;

/// Most functions.
const MAX_SYMBOLS: usize = 256;

/// Addresses of the functions, in the order of the stubs. Null until the first call.
pub(crate) static TARGETS: [AtomicPtr<c_void>; MAX_SYMBOLS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_SYMBOLS];

/// Defines a global function for each name. A stub jumps to its target. If it has none yet, it saves the registers that hold
/// arguments (System V ABI for x86-64: six integers, eight floats, and `al`), asks for the target, and jumps there.
macro_rules! define {
    ($($name:ident)*) => {
        #[cfg(target_arch = "x86_64")]
        std::arch::global_asm!(
            ".set lockstep_stub, 0",
            $(concat!(
                ".globl ", stringify!($name), "\n",
                ".type ", stringify!($name), ", @function\n",
                stringify!($name), ":\n",
                "    mov r11, qword ptr [rip + {targets} + 8 * lockstep_stub]\n",
                "    test r11, r11\n",
                "    jz 2f\n",
                "    jmp r11\n",
                "2:  mov r11d, lockstep_stub\n",
                "    jmp lockstep_find_target\n",
                ".set lockstep_stub, lockstep_stub + 1\n",
            ),)*
            "lockstep_find_target:",
            "    push rbp",
            "    mov rbp, rsp",
            "    push rdi", "    push rsi", "    push rdx", "    push rcx", "    push r8", "    push r9", "    push rax",
            // The eighth word keeps the stack aligned to 16 bytes.
            "    push rax",
            "    sub rsp, 128",
            "    movups [rsp], xmm0", "    movups [rsp + 16], xmm1", "    movups [rsp + 32], xmm2",
            "    movups [rsp + 48], xmm3", "    movups [rsp + 64], xmm4", "    movups [rsp + 80], xmm5",
            "    movups [rsp + 96], xmm6", "    movups [rsp + 112], xmm7",
            "    mov edi, r11d",
            "    call {find}",
            "    mov r11, rax",
            "    movups xmm0, [rsp]", "    movups xmm1, [rsp + 16]", "    movups xmm2, [rsp + 32]",
            "    movups xmm3, [rsp + 48]", "    movups xmm4, [rsp + 64]", "    movups xmm5, [rsp + 80]",
            "    movups xmm6, [rsp + 96]", "    movups xmm7, [rsp + 112]",
            "    add rsp, 128",
            "    pop rax", "    pop rax", "    pop r9", "    pop r8", "    pop rcx", "    pop rdx", "    pop rsi",
            "    pop rdi",
            "    pop rbp",
            "    jmp r11",
            targets = sym $crate::stubs::TARGETS,
            find = sym find,
        );
        const _: () = assert!([$(stringify!($name)),*].len() <= $crate::stubs::TARGETS.len());
    };
}

pub(crate) use define;

# From the PVH entry point to ring 3.
#
# Everything here runs in ring 0, which one of the KVM back ends interprets at under two million
# instructions a second and without some instructions: it is short, and its tables are data of the
# image. What can be done in ring 3 is done there. Page tables, descriptor tables
# and the local APIC are only memory, and all memory is accessible to ring 3.
#
# The start state is that of the x86/HVM direct boot ABI (Xen, docs/misc/pvh.pandoc): 32-bit
# protected mode, paging off, flat segments, EBX = physical address of hvm_start_info.
# Application processors come through the trampoline and join at `protected_mode`.
#
# ebp = number of this vCPU, ebx = start info (first vCPU only)

.set CODE32, 0x08
.set CODE64, 0x10
.set DATA, 0x18
.set USER_CODE, 0x23
.set USER_DATA, 0x2b
.set FIRST_TSS, 0x30

# Ring 3's flags: interrupts off, which no code of ours changes, and IOPL 3 (see `long_mode`).
.set USER_FLAGS, 0x3002

# A task state segment, a bitmap of 0x400 ports, and the byte that is read with the last of them.
.set TSS_BYTES, 104 + 0x400 / 8 + 4

# Present, writable, user-accessible; a large page; uncached for the local APIC.
.set TABLE, 0x07
.set LARGE, 0x87
.set DEVICE, 0x9f

.section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18                      # sizes of name and descriptor, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

.section .text.entry, "ax"
.code32
.globl pvh_entry
pvh_entry:
    xor %ebp, %ebp
    lgdt gdt_pointer
    jmp protected_mode
application_processor:
    mov $DATA, %eax                     # real mode left a limit of 64 KiB
    mov %eax, %ds
    mov {starting_vcpu}, %ebp
protected_mode:
    cli
    cld
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x620, %eax                    # PAE, OSFXSR, OSXMMEXCPT: Rust's core uses SSE2
    mov %eax, %cr4
    mov $page_map, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # EFER.LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80010033, %eax               # PG, WP, NE, ET, MP, PE; caches on, no emulation
    mov %eax, %cr0
    ljmpl $CODE64, $long_mode

.code64
long_mode:
    # The task state segment of this vCPU names the stack on which ring 0 receives an exception
    # (each vCPU has its own, since two may fail at once), and permits ring 3 the I/O ports up to
    # 0x3ff. IOPL 3 does that too, and neither does it everywhere:
    # - where KVM interprets ring 0, ring 3 has the flags of a host process: only the bitmap counts;
    # - QEMU's emulated processor reads the bitmap of an available task only (`check_io` in its
    #   target/i386/tcg). LTR leaves its own copy so, but KVM_GET_SREGS says busy, as it is on
    #   hardware, and KVM_SET_SREGS makes it so: after a hand-over on an emulated host only IOPL
    #   counts.
    mov %ebp, %edi
    shl $8, %edi
    add $task_states, %edi
    mov %edi, %edx
    mov $TSS_BYTES / 4, %ecx
    xor %eax, %eax
    rep stosl
    mov %edx, %edi
    lea 1(%rbp), %eax
    shl $8, %eax
    add $exception_stacks, %eax
    mov %rax, 4(%rdi)                   # RSP0
    mov %eax, %esp
    movw $104, 102(%rdi)                # the bitmap follows; a zero bit permits

    mov %ebp, %esi
    shl $4, %esi
    add $first_task_descriptor, %esi
    movw $TSS_BYTES - 1, (%rsi)         # limit
    mov %di, 2(%rsi)                    # base 15:0
    mov %edi, %eax
    shr $16, %eax
    mov %al, 4(%rsi)                    # base 23:16
    movb $0x89, 5(%rsi)                 # present, available 64-bit TSS
    mov %ah, 7(%rsi)                    # base 31:24
    mov %ebp, %eax
    shl $4, %eax
    add $FIRST_TSS, %eax
    ltr %ax
    lidt idt_pointer

    mov %ebp, %ecx
    inc %ecx
    imul ${stack_bytes}, %ecx, %ecx
    add $stacks, %ecx
    pushq $USER_DATA
    pushq %rcx
    pushq $USER_FLAGS
    pushq $USER_CODE
    pushq $ring_3
    iretq

# From here on at full speed.
ring_3:
    test %ebp, %ebp
    jnz 1f
    # Not every loader clears what lies beyond the file's bytes.
    mov $bss_start, %edi
    mov $bss_end, %ecx
    sub %edi, %ecx
    xor %eax, %eax
    rep stosb
    mov %ebx, %edi
    call {first_vcpu}
1:  mov %ebp, %edi
    call {other_vcpu}

# An exception: ring 0 only carries its facts back to ring 3, which reports them and resets.
# The stubs lie 16 bytes apart. Vectors whose frame has an error code: 8, 10 to 14, 17, 21, 29, 30.
.balign 16
.globl exception_stubs
exception_stubs:
.set vector, 0
.rept {exceptions}
    .balign 16
    .if (0x60227d00 >> vector) & 1
    .else
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .set vector, vector + 1
.endr
exception:
    pop %rdi                            # vector
    pop %rsi                            # error code
    pop %rdx                            # RIP
    mov %cr2, %rcx
    # The frame's stack pointer is replaced by the top of the vCPU's own stack: the old one may be
    # what failed. The vCPU's number is found from the exception stack's address.
    mov %rsp, %rax
    sub $exception_stacks, %rax
    shr $8, %rax
    inc %eax
    imul ${stack_bytes}, %eax, %eax
    add $stacks, %eax
    pushq $USER_DATA
    pushq %rax
    pushq $USER_FLAGS
    pushq $USER_CODE
    pushq $ring_3_exception
    iretq
ring_3_exception:
    call {exception_raised}

# The only code below 1 MiB: copied to the page that the start-up IPI names, run in real mode.
.section .rodata.trampoline, "a"
.code16
.globl trampoline_start
trampoline_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl {trampoline_page} + trampoline_gdt_pointer - trampoline_start
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $CODE32, $application_processor
    .balign 4
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.globl trampoline_end
trampoline_end:

.code64
# The identity map that ring 0 needs: the first gigabyte, and the local APIC in the fourth. Ring 3
# adds what the memory map of the start info names, before it touches it.
.section .data.tables, "aw"
.balign 4096
page_map:
    .quad page_directory_pointers + TABLE
    .fill 511, 8, 0
.globl page_directory_pointers
page_directory_pointers:
    .quad first_gigabyte + TABLE
    .quad 0, 0
    .quad fourth_gigabyte + TABLE
    .fill 508, 8, 0
first_gigabyte:
    .set address, 0
    .rept 512
    .quad address + LARGE
    .set address, address + 0x200000
    .endr
.globl fourth_gigabyte
fourth_gigabyte:
    .fill 503, 8, 0
    .quad 0xfee00000 + DEVICE
    .fill 8, 8, 0

.balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # ring 0 code, 32 bits
    .quad 0x00af9b000000ffff            # ring 0 code, 64 bits
    .quad 0x00cf93000000ffff            # data
    .quad 0x00affb000000ffff            # ring 3 code, 64 bits
    .quad 0x00cff3000000ffff            # ring 3 data
first_task_descriptor:
    .fill 2 * {max_cpus}, 8, 0
gdt_end:

gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
idt_pointer:
    .word 16 * {exceptions} - 1
    .quad {idt}

.section .noinit, "aw", @nobits
.balign 4096
.globl page_directories
page_directories:
    .skip 4096 * {gigabytes}
.globl stacks
stacks:
    .skip {stack_bytes} * {max_cpus}
exception_stacks:
    .skip 256 * {max_cpus}
task_states:
    .skip 256 * {max_cpus}

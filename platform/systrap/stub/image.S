// The stub image inside the program. STUB_IMAGE_FILE is set by CMake.
        .section .rodata, "a"
        .globl caisson_stub_image, caisson_stub_image_end
        .hidden caisson_stub_image, caisson_stub_image_end
        .balign 64
caisson_stub_image:
        .incbin STUB_IMAGE_FILE
caisson_stub_image_end:
        .section .note.GNU-stack, "", @progbits

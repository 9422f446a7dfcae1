"""Small ELF programs, good ones and broken ones, as bytes."""
import struct

HEADER, SEGMENT = 64, 56
BASE = 0x400000
PAGE = 4096
PT_LOAD, PT_INTERP, PT_GNU_STACK = 1, 3, 0x6474E551
R, W, X = 4, 2, 1
# mov $60, %eax; mov $7, %edi; syscall
EXIT_7 = bytes.fromhex("b83c000000bf070000000f05")
GOOD_STATUS = 7


def segment(kind=PT_LOAD, flags=R | X, offset=0, vaddr=BASE, filesz=PAGE, memsz=None, align=PAGE):
    return struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, vaddr, filesz,
                       filesz if memsz is None else memsz, align)


def program(segments=None, entry=None, code=EXIT_7, **fields):
    """A one-page program that exits with 7. `fields` replaces header fields by name."""
    segments = [segment()] if segments is None else segments
    code_at = HEADER + SEGMENT * len(segments)
    values = {
        "magic": b"\x7fELF", "elf_class": 2, "data": 1, "ident_version": 1, "osabi": 0,
        "type": 2, "machine": 62, "version": 1,
        "entry": BASE + code_at if entry is None else entry,
        "phoff": HEADER, "shoff": 0, "flags": 0, "ehsize": HEADER, "phentsize": SEGMENT,
        "phnum": len(segments), "shentsize": 0, "shnum": 0, "shstrndx": 0,
    }
    unknown = set(fields) - set(values)
    assert not unknown, unknown
    values.update(fields)
    ident = values["magic"] + bytes([values["elf_class"], values["data"],
                                     values["ident_version"], values["osabi"]]) + bytes(8)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", *(values[name] for name in (
            "type", "machine", "version", "entry", "phoff", "shoff", "flags", "ehsize",
            "phentsize", "phnum", "shentsize", "shnum", "shstrndx")))
    return (header + b"".join(segments) + code).ljust(PAGE, b"\0")


def interpreter(path, **changes):
    """A program that asks for an interpreter."""
    text = path + b"\0"
    at = HEADER + 2 * SEGMENT + len(EXIT_7)
    return program([segment(), segment(PT_INTERP, R, at, BASE + at,
                                       changes.get("filesz", len(text)))], code=EXIT_7 + text)


GOOD = program()
# name: bytes; each is run with execve on the host first, which says what is right.
PROGRAMS = {
    "good": GOOD,
    "empty": b"",
    "one_byte": b"\x7f",
    "magic_only": b"\x7fELF",
    "header_cut": GOOD[:63],
    "segments_cut": GOOD[:HEADER + 20],
    "text": b"just some text\n",
    "zeros": bytes(PAGE),
    "class_32": program(elf_class=1),
    "class_wrong": program(elf_class=9),
    "big_endian": program(data=2),
    "i386": program(elf_class=1, machine=3),
    "machine_arm64": program(machine=183),
    "machine_none": program(machine=0),
    "type_relocatable": program(type=1),
    "type_core": program(type=4),
    "phentsize_wrong": program(phentsize=55),
    "phnum_zero": program(phnum=0),
    "phnum_huge": program(phnum=0xFFFF),
    "phoff_beyond": program(phoff=1 << 40),
    "phoff_negative": program(phoff=(1 << 64) - 64),
    "no_load": program([segment(PT_GNU_STACK, R | W)]),
    "filesz_over_memsz": program([segment(filesz=PAGE, memsz=16)]),
    "memsz_huge": program([segment(memsz=1 << 47)]),
    "memsz_max": program([segment(memsz=(1 << 64) - 1)]),
    "vaddr_high": program([segment(vaddr=1 << 62)], entry=1 << 62),
    "vaddr_wraps": program([segment(vaddr=(1 << 64) - PAGE, memsz=2 * PAGE)]),
    "vaddr_misaligned": program([segment(vaddr=BASE + 8)]),
    "offset_misaligned": program([segment(offset=16)]),
    "overlap": program([segment(), segment(flags=R | W, vaddr=BASE)]),
    "overlap_reversed": program([segment(), segment(flags=R | W, offset=0, vaddr=BASE - PAGE,
                                                    filesz=PAGE, memsz=3 * PAGE)]),
    "second_page_beyond_file": program([segment(), segment(flags=R, offset=1 << 30,
                                                           vaddr=BASE + 16 * PAGE)]),
    "bss_huge": program([segment(), segment(flags=R | W, offset=0, vaddr=BASE + 16 * PAGE,
                                            filesz=16, memsz=1 << 46)]),
    "entry_unmapped": program(entry=0x1000),
    "entry_zero": program(entry=0),
    "entry_kernel": program(entry=0xFFFF800000000000),
    "not_executable_code": program([segment(flags=R)]),
    "low_address": program([segment(vaddr=0)], entry=0x100),
    "interp_missing": interpreter(b"/nonexistent/ld.so"),
    "interp_directory": interpreter(b"/"),
    "interp_unterminated": interpreter(b"/lib/x", filesz=6),
    "interp_empty": interpreter(b"", filesz=0),
    "interp_long": interpreter(b"/" * 3800),
    "interp_self_text": interpreter(b"/etc/passwd"),
    "align_odd": program([segment(align=3)]),
    "dyn_good": program(type=3),
    "dyn_vaddr_zero": program([segment(vaddr=0)], entry=HEADER + SEGMENT, type=3),
}

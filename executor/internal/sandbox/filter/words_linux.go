package filter

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, on little-endian machines.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// denyWord denies a call where the low word of an argument is one of values.
// The kernel looks at no more than that word of an int argument, so a
// comparison of all 64 bits, which is what the library offers, would be
// walked past by setting a high bit.
func denyWord(number, arg uint32, values ...uint32) []bpf.Instruction {
	return denyMasked(number, arg, ^uint32(0), values...)
}

// denyMasked does so as far as mask covers the word.
func denyMasked(number, arg, mask uint32, values ...uint32) []bpf.Instruction {
	return compare(number, arg, mask, values, bpf.Jump{Skip: 1}, deny)
}

// onlyWord denies a call unless the low word of an argument, as far as mask
// covers it, is one of values.
func onlyWord(number, arg, mask uint32, values ...uint32) []bpf.Instruction {
	return compare(number, arg, mask, values, deny)
}

var deny = bpf.RetConstant{Val: uint32(errno(unix.EPERM))}

// compare looks at the masked low word of an argument of one call. Where it is
// none of values, otherwise follows; where it is one, otherwise without its
// first instruction. Other calls skip the whole.
func compare(number, arg, mask uint32, values []uint32, otherwise ...bpf.Instruction) []bpf.Instruction {
	n := len(values)
	block := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: uint8(2 + n + len(otherwise))},
		bpf.LoadAbsolute{Off: offsetArgs + 8*arg, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask},
	}
	for i, v := range values {
		block = append(block, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(n - i)})
	}
	return append(block, otherwise...)
}

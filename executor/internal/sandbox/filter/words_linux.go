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
func denyWord(number uint32, arg uint32, values ...uint32) []bpf.Instruction {
	n := len(values)
	block := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: uint8(n + 3)},
		bpf.LoadAbsolute{Off: offsetArgs + 8*arg, Size: 4},
	}
	for i, v := range values {
		block = append(block, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(n - i)})
	}
	return append(block,
		bpf.Jump{Skip: 1},
		bpf.RetConstant{Val: uint32(errno(unix.EPERM))},
	)
}

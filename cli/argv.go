package cli

import (
	"slices"
	"strings"
	"unsafe"
)

// hideToken takes a token off the command line that the process list shows: it
// returns a copy of args, which must be os.Args, and blanks the token in the
// memory of the original. Go's strings of os.Args are that memory itself.
func hideToken(args []string) []string {
	out := slices.Clone(args)
	for i, a := range args {
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name != "token" {
			continue
		}
		if !given && i+1 < len(args) {
			i++
			value = args[i]
		}
		out[i] = strings.Clone(args[i])
		blank(value)
	}
	return out
}

// blank overwrites the memory of s, which must be writable.
func blank(s string) {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range b {
		b[i] = 'x'
	}
}

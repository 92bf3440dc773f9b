package cli

import (
	"slices"
	"strings"
	"unsafe"

	"limpet/trust"
)

// secretFlags are flags of limpet and of etcdctl whose values nobody may see.
var secretFlags = []string{"token", "discovery-password", "password", "new-user-password", "s3-secret-key", "s3-session-token"}

// hideSecrets takes tokens and passwords off the command line that the process
// list shows: it returns a copy of args, which must be os.Args, and blanks them in
// the memory of the original. Go's strings of os.Args are that memory itself.
// server: they are of limpet server, where nothing that is a token may stay.
func hideSecrets(args []string, server bool) []string {
	out := slices.Clone(args)
	users := false // the words before are etcdctl's user add
	for i, a := range args {
		users = users || a == "add" && slices.Contains(args[:i], "user")
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") {
			name, value = "", a
		} else if !given && i+1 < len(args) {
			i++
			value = args[i]
		}
		_, password, _ := strings.Cut(value, ":")
		switch {
		case slices.Contains(secretFlags, name), server && isToken(value): // in a wrong place, too
			password = value
		case name == "" && users, name == "user", name == "to-user", name == "discovery-user":
		default:
			continue
		}
		out[i] = strings.Clone(args[i])
		blank(password)
	}
	return out
}

func isToken(s string) bool {
	_, err := trust.ParseToken(s)
	return err == nil
}

// blank overwrites the memory of s, which must be writable.
func blank(s string) {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range b {
		b[i] = 'x'
	}
}

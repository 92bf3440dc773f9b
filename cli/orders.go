package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// orders is what the operator asked of limpet server: by flags and variables, or
// by a file.
type orders struct {
	cfg   server.Config
	given map[string]bool // the flags that were given, in any way
	notes []note

	configFile string // that the file was read from; empty: there is none
}

// note is what the operator ought to know about how they asked.
type note struct {
	text string
	with []any // keys and values, as for slog
}

func (o *orders) note(text string, with ...any) { o.notes = append(o.notes, note{text, with}) }

// takeOrders reads flags, variables and file into a configuration, which is not
// validated yet. c is that of the parsed command line.
func takeOrders(c *cli.Context, all []setting) (*orders, error) {
	o := &orders{cfg: server.DefaultConfig(), given: map[string]bool{}}
	flags := serverFlags(all)
	file := c.String("config-file")
	if file == "" {
		_, file = variable("config-file")
	}
	read := func() error { return o.variables(c, flags) }
	if file != "" {
		o.configFile = file
		read = func() error { return o.file(c, file) }
	}
	if err := read(); err != nil {
		return nil, err
	}
	if err := o.settle(c, all); err != nil {
		return nil, err
	}
	if o.given["listen-client-urls"] && !o.given["advertise-client-urls"] && file == "" {
		o.cfg.AdvertiseClientURLs = nil // etcd forgets the default, too
	}
	return o, nil
}

// settle makes the configuration of what the flags have come to say.
func (o *orders) settle(c *cli.Context, all []setting) error {
	if err := o.older(c, all); err != nil {
		return err
	}
	for _, s := range all {
		if err := s.apply(c, &o.cfg); err != nil {
			return err
		}
		if s.idle != "" && o.given[s.name] {
			o.note("this flag has no effect in limpet: "+s.idle, "flag", "--"+s.name)
		}
	}
	return nil
}

// variable is the variable that a flag is given by, and its text; empty: there is
// none. One without a text is as if it were not there, as in etcd.
func variable(flag string) (name, text string) {
	for _, n := range envNames(flag) {
		if text := os.Getenv(n); text != "" {
			return n, text
		}
	}
	return "", ""
}

// variables sets the flags that the command line does not, by the environment.
func (o *orders) variables(c *cli.Context, flags []cli.Flag) error {
	known := map[string]bool{"ETCD_VERSION": true, "ETCD_UNSUPPORTED_ARCH": true}
	for _, f := range flags {
		flag := f.Names()[0]
		if flag == "version" {
			continue // ETCD_VERSION is what images say of themselves
		}
		for _, n := range envNames(flag) {
			known[n] = true
		}
		name, text := variable(flag)
		switch {
		case c.IsSet(flag):
			o.given[flag] = true
			if name != "" {
				// etcd ends here; whoever has both in a manifest means the flag.
				o.note("conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag)", "variable", name)
			}
		case name != "":
			o.given[flag] = true
			if err := c.Set(flag, text); err != nil {
				return fmt.Errorf("invalid value %q for %s: %w", text, name, err)
			}
		}
	}
	for _, name := range strayVariables(known) {
		o.note("unrecognized environment variable", "variable", name)
	}
	return nil
}

// strayVariables lists ETCD_ and LIMPET_ variables that are not known. Kubernetes
// makes some for a Service of that name.
func strayVariables(known map[string]bool) []string {
	var stray []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if (strings.HasPrefix(name, "ETCD_") || strings.HasPrefix(name, "LIMPET_")) && !known[name] {
			stray = append(stray, name)
		}
	}
	slices.Sort(stray)
	return stray
}

// file sets the flags by a file alone.
func (o *orders) file(c *cli.Context, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config-file: %w", err)
	}
	return o.content(c, file, data)
}

// content sets the flags by what a file holds.
func (o *orders) content(c *cli.Context, file string, data []byte) error {
	given, unknown, err := applyConfigFile(c, file, data)
	if err != nil {
		return err
	}
	for _, name := range given {
		o.given[name] = true
	}
	if info, err := os.Stat(file); err == nil && o.given["token"] && info.Mode().Perm()&0o077 != 0 {
		o.note("the configuration file holds the token, and can be read by other users of this machine: chmod 600 it, or give token-file instead", "file", file)
	}
	if info, err := os.Stat(file); err == nil && o.given["s3-secret-key"] && info.Mode().Perm()&0o077 != 0 {
		o.note("the configuration file holds the secret of the bucket, and can be read by other users of this machine: chmod 600 it, or give s3-secret-key-file instead", "file", file)
	}
	for _, name := range unknown {
		o.note("unknown key in the configuration file; it has no effect", "key", name)
	}
	return nil
}

// older gives flags what was given by their older names.
func (o *orders) older(c *cli.Context, all []setting) error {
	for _, s := range all {
		if s.newer == "" || !o.given[s.name] {
			continue
		}
		o.note("this is an older name of a flag; both mean the same", "flag", "--"+s.name, "newer", "--"+s.newer)
		if o.given[s.newer] {
			continue
		}
		if err := c.Set(s.newer, newerText(s.name, c.Value(s.name))); err != nil {
			return err
		}
		o.given[s.newer] = true
	}
	return nil
}

package systemd

import (
	"embed"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
)

//go:embed limpet.service limpet.openrc limpet.logrotate limpet-uninstall.sh limpet-killall.sh
var templates embed.FS

// Kinds of files that Service.File makes.
const (
	Unit      = "systemd"
	OpenRC    = "openrc"
	Logrotate = "logrotate" // of the log that OpenRC writes
	Uninstall = "uninstall"
	Killall   = "killall"
)

var files = map[string]string{
	Unit: "limpet.service", OpenRC: "limpet.openrc", Logrotate: "limpet.logrotate", Uninstall: "limpet-uninstall.sh", Killall: "limpet-killall.sh",
}

// ExitRemoved is the exit code of a member that was removed from its cluster: to
// start it again would not help.
const ExitRemoved = 3

// Service is a member that a service manager runs. All paths are absolute.
type Service struct {
	Name    string   // limpet, or limpet-NAME
	Bin     string   // the program
	Config  string   // its configuration file
	Data    string   // its data directory
	User    string   // as whom it runs
	UnitDir string   // where units of systemd are
	Writes  []string // other folders that it writes to
	Reads   []string // files that it reads, wherever they are
}

// plain is what needs no quoting, neither in a unit nor in a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._@:+-]+$`)

// File is the content of a file for the service. Names and paths that would have to
// be quoted are refused.
func (s Service) File(kind string) (string, error) {
	name, ok := files[kind]
	if !ok {
		return "", fmt.Errorf("there is no file %q for a service: want %s, %s, %s, %s or %s", kind, Unit, OpenRC, Logrotate, Uninstall, Killall)
	}
	for _, word := range append([]string{s.Name, s.Bin, s.Config, s.Data, s.User, s.UnitDir}, s.Writes...) {
		if !plain.MatchString(word) {
			return "", fmt.Errorf("%q cannot stand in a file for a service: use letters, digits and /._@:+- alone", word)
		}
	}
	for _, path := range append([]string{s.Bin, s.Config, s.Data, s.UnitDir}, s.Writes...) {
		if !filepath.IsAbs(path) {
			return "", fmt.Errorf("a service needs whole paths: %q does not begin with /", path)
		}
	}
	t, err := template.ParseFS(templates, name)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, s)
	return b.String(), err
}

// ExitRemoved is the constant, for the templates.
func (s Service) ExitRemoved() int { return ExitRemoved }

// Home reports whether something that the service uses lies where systemd's
// ProtectHome would hide it.
func (s Service) Home() bool {
	for _, path := range append(append([]string{s.Bin, s.Config, s.Data}, s.Writes...), s.Reads...) {
		for _, home := range []string{"/home/", "/root/", "/run/user/"} {
			if strings.HasPrefix(path, home) {
				return true
			}
		}
	}
	return false
}

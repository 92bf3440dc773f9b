package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"limpet/server"
	"limpet/systemd"
)

func serviceCommand() *cli.Command {
	return &cli.Command{
		Name:      "service",
		Usage:     "print the files by which a service manager runs a member",
		ArgsUsage: strings.Join([]string{systemd.Unit, systemd.OpenRC, systemd.Logrotate, systemd.Uninstall, systemd.Killall}, "|"),
		Description: "Prints a unit of systemd, a script of OpenRC, or the scripts that uninstall\n" +
			"limpet or stop it. install.sh writes them; with these you can do so by hand:\n\n" +
			"    limpet service systemd > /etc/systemd/system/limpet.service",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "of the service", Value: "limpet"},
			&cli.StringFlag{Name: "bin", Usage: "the program, by its whole path", Value: "/usr/local/bin/limpet"},
			&cli.StringFlag{Name: "config-file", Usage: "its configuration file (default: /etc/NAME/config.yaml)"},
			&cli.StringFlag{Name: "user", Usage: "as whom it runs", Value: "limpet"},
			&cli.StringFlag{Name: "systemd-dir", Usage: "where units are", Value: "/etc/systemd/system"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return fmt.Errorf("limpet service takes one argument, got %d; see limpet service --help", c.NArg())
			}
			s := systemd.Service{
				Name: c.String("name"), Bin: c.String("bin"), Config: c.String("config-file"),
				User: c.String("user"), UnitDir: c.String("systemd-dir"),
			}
			if s.Config == "" {
				s.Config = "/etc/" + s.Name + "/config.yaml"
			}
			if err := readService(&s); err != nil {
				return err
			}
			text, err := s.File(c.Args().First())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.App.Writer, text)
			return err
		},
	}
}

// readService finds out from the configuration file what the service touches.
func readService(s *systemd.Service) error {
	all := settings()
	c, err := defaults(all)
	if err != nil {
		return err
	}
	o := &orders{cfg: server.DefaultConfig(), given: map[string]bool{}}
	if err := o.file(c, s.Config); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := o.settle(c, all); err != nil {
		return err
	}
	s.Data = o.cfg.DataDir
	if s.Data == "" {
		s.Data = "/var/lib/" + s.Name // as install.sh has it
	}
	var writes []string
	if s.Data != "/var/lib/"+s.Name {
		writes = append(writes, s.Data)
	}
	if o.cfg.WALDir != "" {
		writes = append(writes, o.cfg.WALDir)
	}
	if o.cfg.Snapshots.Dir != "" {
		writes = append(writes, o.cfg.Snapshots.Dir)
	}
	for _, text := range slices.Concat(o.cfg.ListenClientURLs, o.cfg.ListenClientHTTPURLs, o.cfg.ListenMetricsURLs) {
		if u, err := url.Parse(text); err == nil && strings.HasPrefix(u.Scheme, "unix") {
			writes = append(writes, filepath.Dir(u.Host+u.Path))
		}
	}
	for _, file := range splitList(c.String("log-outputs")) {
		if filepath.IsAbs(file) {
			writes = append(writes, filepath.Dir(file))
		}
	}
	for _, dir := range writes {
		if dir != "/run/"+s.Name && !slices.Contains(s.Writes, dir) {
			s.Writes = append(s.Writes, dir)
		}
	}
	f, p := o.cfg.ClientTLS.Files, o.cfg.PeerTLS.Files
	s.Reads = []string{o.cfg.TokenFile, f.Cert, f.Key, f.TrustedCA, f.CRL, p.Cert, p.Key, p.CallerCert, p.CallerKey, p.TrustedCA, p.CRL,
		o.cfg.Snapshots.S3.SecretKeyFile, o.cfg.Snapshots.S3.CAFile}
	return nil
}

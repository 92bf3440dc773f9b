package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// older is a flag that was once the name of another, which it sets unless that
// one is given, too.
func older(s setting, newer string) setting {
	s.newer, s.apply = newer, func(*cli.Context, *server.Config) error { return nil }
	return s
}

// olderSettings lists names of flags that etcd has given up, and that still mean
// what they meant: who is let in must not hang on the age of a manifest.
func olderSettings() []setting {
	type C = server.Config
	var none struct {
		text  string
		list  []string
		debug bool
	}
	return []setting{
		older(text("ca-file", catIdle, "as --trusted-ca-file (etcd 2)", func(*C) *string { return &none.text }), "trusted-ca-file"),
		older(text("peer-ca-file", catIdle, "as --peer-trusted-ca-file (etcd 2)", func(*C) *string { return &none.text }), "peer-trusted-ca-file"),
		older(urls("log-output", catIdle, "as --log-outputs (etcd 3.3)", func(*C) *[]string { return &none.list }), "log-outputs"),
		older(boolean("debug", catIdle, "as --log-level debug (etcd 3.3)", func(*C) *bool { return &none.debug }), "log-level"),
		older(duration("experimental-watch-progress-notify-interval", catIdle, "as --watch-progress-notify-interval (etcd 3.5)", func(c *C) *time.Duration { return &c.ProgressEvery }), "watch-progress-notify-interval"),
		older(number("experimental-max-learners", catIdle, "as --max-learners (etcd 3.5)", func(c *C) *int { return &c.MaxLearners }), "max-learners"),
		older(boolean("experimental-peer-skip-client-san-verification", catIdle, "as --peer-skip-client-san-verification (etcd 3.5)", func(c *C) *bool { return &c.PeerTLS.SkipCallerSAN }), "peer-skip-client-san-verification"),
	}
}

// newerText is what the newer name of a flag is given, for the text of the older.
func newerText(name string, value any) string {
	text := fmt.Sprint(value)
	if name != "debug" {
		return text
	}
	if text == "true" {
		return "debug"
	}
	return "info"
}

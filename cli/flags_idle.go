package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// Flags that limpet takes, whose form it checks, and which change nothing. Each
// says why, in the help and once in the log when it is given.

// idle is such a flag; the type of def is that of its value.
func idle(name string, def any, why string) setting {
	s := setting{name: name, idle: why, apply: func(*cli.Context, *server.Config) error { return nil }}
	switch def := def.(type) {
	case bool:
		s.flag = &cli.BoolFlag{Name: name, Value: def, Usage: why, Category: catIdle}
	case int:
		s.flag = &cli.Int64Flag{Name: name, Value: int64(def), Usage: why, Category: catIdle}
	case uint:
		s.flag = &cli.Uint64Flag{Name: name, Value: uint64(def), Usage: why, Category: catIdle}
	case time.Duration:
		s.flag = &cli.DurationFlag{Name: name, Value: def, Usage: why, Category: catIdle}
	case string:
		s.flag = &cli.StringFlag{Name: name, Value: def, Usage: why, Category: catIdle}
	default:
		panic(fmt.Sprintf("cli: flag --%s cannot have a %T", name, def))
	}
	return s
}

// oneOf is an idle flag that has a few values only.
func oneOf(name, def, why string, values ...string) setting {
	s := idle(name, def, why)
	s.apply = func(c *cli.Context, _ *server.Config) error {
		got := c.String(name)
		for _, v := range values {
			if got == v {
				return nil
			}
		}
		return badValue(name, got, "one of "+strings.Join(values, ", "))
	}
	return s
}

const (
	whyBolt    = "limpet's database is SQLite, not bbolt"
	whyFiles   = "the raft log is bounded by --max-log-bytes, and old files go by themselves"
	whyVote    = "members always ask before they stand for election"
	whyDial    = "limpet does not call itself over the network"
	whyTrace   = "limpet sends no traces; /metrics with --metrics=extensive has latencies"
	whyCorrupt = "members are not compared in intervals; etcdctl endpoint hashkv compares them"
	whyBatch   = "compaction goes by small steps, each short enough not to be felt"
	whySlow    = "limpet logs no slow requests; /metrics with --metrics=extensive has latencies"
	whyPeers   = "connections between members have deadlines of their own"
	whyProxy   = "limpet runs members only, and no proxies"
	whyRotate  = "limpet does not rotate logs: journald or logrotate (copytruncate) do"
	whyGates   = "limpet has none of etcd's alpha and beta features to switch"
	whySearch  = "limpet asks no discovery service"
	whyOld     = "it has had no effect since etcd 2"
)

// idleSettings lists the flags without effect.
func idleSettings() []setting {
	all := []setting{
		idle("initial-election-tick-advance", true, "elections of a member that starts are as fast as any"),
		idle("max-snapshots", uint(5), whyFiles), idle("max-wals", uint(5), whyFiles),
		idle("snapshot-catchup-entries", uint(5000), whyFiles),
		idle("memory-mlock", false, "limpet keeps its memory small instead of pinning it"),
		idle("backend-bbolt-freelist-type", "map", whyBolt),
		idle("backend-batch-interval", time.Duration(0), whyBolt), idle("backend-batch-limit", 0, whyBolt),
		idle("bootstrap-defrag-threshold-megabytes", uint(0), "the database gives free pages back while it runs"),
		idle("socket-reuse-address", false, "it is so on all listeners"),
		idle("raft-read-timeout", 5*time.Second, whyPeers), idle("raft-write-timeout", 5*time.Second, whyPeers),
		idle("pre-vote", true, whyVote),
		idle("client-cert-file", "", whyDial), idle("client-key-file", "", whyDial),
		idle("self-signed-cert-validity", uint(1), "automatic certificates do not expire: boards without a clock must not be shut out"),
		oneOf("v2-deprecation", "write-only", "the v2 API is served as long as --enable-v2 is on", "not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"),
		gates("feature-gates"),
		idle("corrupt-check-time", time.Duration(0), whyCorrupt), idle("compact-hash-check-time", time.Minute, whyCorrupt),
		idle("compaction-batch-limit", 1000, whyBatch), idle("compaction-sleep-interval", 10*time.Millisecond, whyBatch),
		idle("warning-apply-duration", 100*time.Millisecond, whySlow), idle("warning-unary-request-duration", 300*time.Millisecond, whySlow),
		idle("downgrade-check-time", 5*time.Second, "nothing of a downgrade is checked in intervals"),
		idle("enable-distributed-tracing", false, whyTrace), idle("distributed-tracing-address", "localhost:4317", whyTrace),
		idle("distributed-tracing-service-name", "etcd", whyTrace), idle("distributed-tracing-instance-id", "", whyTrace),
		idle("distributed-tracing-sampling-rate", 0, whyTrace),
		oneOf("logger", "zap", "limpet has one logger, which writes as zap does", "zap", "capnslog", "default"),
		idle("log-package-levels", "", "--log-level is for all packages"),
		idle("enable-log-rotation", false, whyRotate),
		idle("log-rotation-config-json", `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`, whyRotate),
	}
	return append(append(all, idleDiscovery()...), idleOld()...)
}

// idleDiscovery lists what belongs to discovery services and proxies. A flag that
// would have made a proxy of the process, not a member, is refused.
func idleDiscovery() []setting {
	return []setting{
		idle("discovery-dial-timeout", 2*time.Second, whySearch), idle("discovery-request-timeout", 5*time.Second, whySearch),
		idle("discovery-keepalive-time", 2*time.Second, whySearch), idle("discovery-keepalive-timeout", 6*time.Second, whySearch),
		idle("discovery-insecure-transport", true, whySearch), idle("discovery-insecure-skip-tls-verify", false, whySearch),
		idle("discovery-cert", "", whySearch), idle("discovery-key", "", whySearch), idle("discovery-cacert", "", whySearch),
		idle("discovery-user", "", whySearch), idle("discovery-password", "", whySearch),
		idle("discovery-proxy", "", whySearch), oneOf("discovery-fallback", "exit", whySearch, "exit", "proxy"),
		oneOf("proxy", "off", whyProxy, "off"),
		idle("proxy-failure-wait", uint(5000), whyProxy), idle("proxy-refresh-interval", uint(30000), whyProxy),
		idle("proxy-dial-timeout", uint(1000), whyProxy), idle("proxy-write-timeout", uint(5000), whyProxy), idle("proxy-read-timeout", uint(0), whyProxy),
	}
}

// idleOld lists flags of etcd 3.3 to 3.5 that are gone, and those that etcd itself
// ignores.
func idleOld() []setting {
	out := []setting{
		idle("experimental-corrupt-check-time", time.Duration(0), whyCorrupt),
		idle("experimental-compact-hash-check-time", time.Minute, whyCorrupt),
		idle("experimental-enable-v2v3", "", "v2 and v3 keys are apart, as in etcd without it"),
		idle("experimental-compaction-batch-limit", 1000, whyBatch), idle("experimental-compaction-sleep-interval", time.Duration(0), whyBatch),
		idle("experimental-warning-apply-duration", 100*time.Millisecond, whySlow),
		idle("experimental-warning-unary-request-duration", 300*time.Millisecond, whySlow),
		idle("experimental-downgrade-check-time", 5*time.Second, "nothing of a downgrade is checked in intervals"),
		idle("experimental-memory-mlock", false, "limpet keeps its memory small instead of pinning it"),
		idle("experimental-bootstrap-defrag-threshold-megabytes", uint(0), "the database gives free pages back while it runs"),
		idle("experimental-backend-bbolt-freelist-type", "map", whyBolt),
		idle("experimental-snapshot-catchup-entries", uint(5000), whyFiles),
		idle("experimental-enable-distributed-tracing", false, whyTrace), idle("experimental-distributed-tracing-address", "localhost:4317", whyTrace),
		idle("experimental-distributed-tracing-service-name", "etcd", whyTrace), idle("experimental-distributed-tracing-instance-id", "", whyTrace),
		idle("experimental-distributed-tracing-sampling-rate", 0, whyTrace),
	}
	for _, gate := range []string{
		"initial-corrupt-check", "compact-hash-check-enabled", "enable-lease-checkpoint", "enable-lease-checkpoint-persist",
		"txn-mode-write-with-shared-buffer", "stop-grpc-service-on-defrag", "set-member-localaddr",
	} {
		out = append(out, idle("experimental-"+gate, gate == "txn-mode-write-with-shared-buffer", whyGates))
	}
	for _, name := range []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer", "max-retry-attempts",
		"peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv", "test.coverprofile", "test.outputdir",
	} {
		s := idle(name, false, whyOld)
		s.flag = &cli.GenericFlag{Name: name, Value: new(anything), Usage: whyOld, Category: catIdle}
		out = append(out, s)
	}
	return out
}

// anything is the value of a flag that stands alone or has any text, =TEXT, as those
// that etcd ignores: "-v --name m" is no value for -v.
type anything string

// Set, String and Get implement flag.Getter.
func (a *anything) Set(s string) error { *a = anything(s); return nil }

func (a *anything) String() string { return string(*a) }

// Get implements flag.Getter.
func (a *anything) Get() any { return string(*a) }

// IsBoolFlag is how package flag asks whether a flag may stand alone.
func (a *anything) IsBoolFlag() bool { return true }

// gateNames are those of etcd 3.7 (package features).
const gateNames = "AllAlpha AllBeta CompactHashCheck FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint LeaseCheckpointPersist PriorityRequest SetMemberLocalAddr StopGRPCServiceOnDefrag TxnModeWriteWithSharedBuffer"

// gates is --feature-gates: checked as etcd checks it (featuregate.Set).
func gates(name string) setting {
	s := idle(name, "", whyGates)
	s.apply = func(c *cli.Context, _ *server.Config) error {
		on := map[string]bool{}
		for _, part := range splitList(c.String(name)) {
			gate, text, found := strings.Cut(part, "=")
			gate, text = strings.TrimSpace(gate), strings.TrimSpace(text)
			value, err := strconv.ParseBool(text)
			switch {
			case !found:
				return fmt.Errorf("missing bool value for %s; write --%s=%s=true", gate, name, gate)
			case !strings.Contains(" "+gateNames+" ", " "+gate+" "):
				return fmt.Errorf("unrecognized feature gate: %s; --%s takes %s", gate, name, strings.ReplaceAll(gateNames, " ", ", "))
			case err != nil:
				return fmt.Errorf("invalid value of %s=%s, err: %w", gate, text, err)
			}
			on[gate] = value
		}
		if on["LeaseCheckpointPersist"] && !on["LeaseCheckpoint"] {
			return fmt.Errorf("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
		}
		return nil
	}
	return s
}

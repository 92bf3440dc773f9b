package side

import (
	"cmp"
	"math"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Rule lets one field differ between the two servers.
type Rule struct {
	Field  protoreflect.FullName
	Reason string
	// Same decides instead of equality. Nil for lists that are compared as sets.
	Same func(want, got protoreflect.Value) bool
}

// Allowed is the whole list of differences that are not mismatches. Identities a server picks for
// itself (cluster, member, leases granted with ID 0, its own addresses) are not here: Names
// translates them, so that a wrong one is still seen.
var Allowed = []Rule{
	{"etcdserverpb.ResponseHeader.raft_term", "terms count elections, not requests", bothSet},
	{"etcdserverpb.StatusResponse.raftTerm", "as above", bothSet},
	{"etcdserverpb.StatusResponse.raftIndex", "one raft entry may carry many requests", bothSet},
	{"etcdserverpb.StatusResponse.raftAppliedIndex", "as above", bothSet},
	{"etcdserverpb.StatusResponse.dbSize", "another storage engine", bothSet},
	{"etcdserverpb.StatusResponse.dbSizeInUse", "as above", bothSet},
	{"etcdserverpb.StatusResponse.errors", "etcd lists alarms in map order", nil},
	{"etcdserverpb.HashResponse.hash", "hash of the whole file, member-specific by definition", anything},
	{"etcdserverpb.LeaseTimeToLiveResponse.TTL", "seconds that passed meanwhile, cut to whole ones", within(3)},
	{"etcdserverpb.LeaseTimeToLiveResponse.keys", "etcd lists a lease's keys in map order", nil},
	{"etcdserverpb.LeaseLeasesResponse.leases", "ordered by time of expiry, near ties fall either way", nil},
	{"etcdserverpb.AlarmResponse.alarms", "etcd lists alarms in map order", nil},
}

// autoLeaseRule is added in sessions that attach leases to keys whose ID the server chose.
var autoLeaseRule = Rule{"etcdserverpb.HashKVResponse.hash", "covers lease IDs the servers chose", anything}

// libraryTexts are error texts of the gRPC library itself, which its releases word differently. The
// two servers need not be built with the same one.
var libraryTexts = strings.NewReplacer(
	"grpc: failed to unmarshal the received message", "grpc: error unmarshalling request",
)

// ownChecks are lines in the verbose answers of /livez and /readyz that etcd does not have: limpet
// may check more than etcd, as long as the checks pass.
var ownChecks = strings.NewReplacer("[+]disk ok\n", "")

func anything(_, _ protoreflect.Value) bool { return true }

// bothSet: either both are zero or both are not.
func bothSet(want, got protoreflect.Value) bool { return (number(want) == 0) == (number(got) == 0) }

// within: both negative ("unknown") or both not, and at most slack apart.
func within(slack float64) func(want, got protoreflect.Value) bool {
	return func(want, got protoreflect.Value) bool {
		w, g := number(want), number(got)
		return cmp.Less(w, 0) == cmp.Less(g, 0) && math.Abs(w-g) <= slack
	}
}

func number(v protoreflect.Value) float64 {
	switch n := v.Interface().(type) {
	case int64:
		return float64(n)
	case uint64:
		return float64(n)
	case int32:
		return float64(n)
	case uint32:
		return float64(n)
	}
	return math.NaN()
}

package kube

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The log search finds what it is there for, once, and nothing else.
func TestLogSearchFindsComplaints(t *testing.T) {
	log := filepath.Join(t.TempDir(), "some.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, "open", err)
		defer f.Close()
		_, err = f.WriteString(text)
		must(t, "write", err)
	}
	searched := logOffset{}
	rows := []struct {
		store bool
		line  string
		found int
	}{
		{true, `{"level":"error","msg":"apply failed"}`, 1},
		{true, `{"time":"now","level":"ERROR","msg":"apply failed"}`, 1},
		{true, `time=now level=ERROR msg="apply failed"`, 1},
		{true, `panic: index out of range`, 1},
		{true, `{"level":"warn","msg":"slow","error":"none"}`, 0},
		{true, `{"level":"error","msg":"setting up serving from embedded etcd failed."}`, 0},
		{false, `E1122 etcd event received with PrevKv=nil (key="/registry/pods/a/b")`, 1},
		{false, `E1122 Observed a panic: runtime error`, 1},
		{false, `E1122 Cache consistency check failed`, 1},
		{false, `E1122 FinishRequest: post-timeout activity, panicked: false`, 0},
	}
	for _, row := range rows {
		match, pardon := apiComplaint, apiPardon
		if row.store {
			match, pardon = storeComplaint, etcdPardon
		}
		write(row.line + "\n")
		for pass, want := range []int{row.found, 0} {
			found, err := searched.complaints(log, match, pardon)
			must(t, "search", err)
			if len(found) != want {
				t.Errorf("pass %d over %s: got %q, want %d lines", pass, row.line, found, want)
			}
		}
	}
}

// The check after a kill tells what was lost or brought back from what is only
// in doubt.
func TestRecordsTellLossFromDoubt(t *testing.T) {
	at := func(version, content string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}, Data: map[string]string{"n": content}}
	}
	updated := record{created: true, version: 20, acked: 2, attempted: 2}
	inDoubt := record{created: true, version: 20, acked: 2, attempted: 3}
	deleted := record{created: true, version: 20, deleteAttempted: true, deleteAcked: true}
	deleting := record{created: true, version: 20, deleteAttempted: true}
	rows := []struct {
		name  string
		known record
		found *corev1.ConfigMap
		wrong bool
	}{
		{"as acknowledged", updated, at("20", "2"), false},
		{"gone", updated, nil, true},
		{"an update lost", updated, at("19", "1"), true},
		{"written again by a ghost", updated, at("21", "2"), true},
		{"content nobody wrote", updated, at("21", "3"), true},
		{"update in doubt, done", inDoubt, at("22", "3"), false},
		{"update in doubt, not done", inDoubt, at("20", "2"), false},
		{"deleted", deleted, nil, false},
		{"back from the dead", deleted, at("20", "0"), true},
		{"deletion in doubt, done", deleting, nil, false},
		{"deletion in doubt, not done", deleting, at("20", "0"), false},
		{"create in doubt, done", record{}, at("20", "0"), false},
		{"create in doubt, not done", record{}, nil, false},
	}
	for _, row := range rows {
		if problem := row.known.problem(row.found); (problem != "") != row.wrong {
			t.Errorf("%s: got problem %q, want one: %v", row.name, problem, row.wrong)
		}
	}
}

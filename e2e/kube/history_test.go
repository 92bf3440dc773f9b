package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// historyLine is what a line of limpet history --output json says of who wrote.
type historyLine struct {
	Kind       string `json:"kind"`
	Kubernetes *struct {
		Kind, Manager, Operation, Subresource, Time string
	} `json:"kubernetes"`
}

// writtenBy is what is told of a key, and in words who wrote it; who writes several
// times in a row, as kubectl does to hand over fields, counts once.
func writtenBy(t *testing.T, ctx context.Context, c *Cluster, key string) (lines []historyLine, words string) {
	t.Helper()
	out, err := exec.CommandContext(ctx, c.binaries.Limpet, "history", "--endpoints", c.Store.Endpoint, "--output", "json", key).Output()
	must(t, "limpet history "+key, err)
	var all []string
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var l historyLine
		must(t, "read "+string(out), dec.Decode(&l))
		lines = append(lines, l)
		word := l.Kind
		if k := l.Kubernetes; k != nil {
			word = strings.TrimSuffix(strings.Join([]string{l.Kind, k.Manager, k.Operation, k.Subresource}, ":"), ":")
		}
		if len(all) == 0 || all[len(all)-1] != word {
			all = append(all, word)
		}
	}
	return lines, strings.Join(all, " ")
}

func historyNeedsLimpet(t *testing.T, c *Cluster) {
	t.Helper()
	if c.Store.Kind != Limpet {
		t.Skip("etcd tells no history")
	}
}

// limpet history tells who wrote an object: kubectl, whoever applies on the server,
// a program, a controller.
func TestHistoryTellsWhoWrote(t *testing.T) {
	c, ctx := story(t)
	historyNeedsLimpet(t, c)
	namespace := newNamespace(t, ctx, c, "history")
	k := newKubectl(t, c, namespace)
	key := "/registry/configmaps/" + namespace + "/pool"
	// At once, since the API server compacts now and then.
	wantLast := func(want string) {
		t.Helper()
		if lines, got := writtenBy(t, ctx, c, key); !strings.HasSuffix(" "+got, " "+want) || lines[0].Kubernetes == nil || lines[0].Kubernetes.Kind != "ConfigMap" {
			t.Errorf("%s was written by %q, want %q last", key, got, want)
		}
	}
	k.run(ctx, "kubectl create configmap pool --from-literal=water=salt --dry-run=client -o yaml | kubectl apply -f -")
	wantLast("create:kubectl-client-side-apply:Update")
	k.run(ctx, "kubectl create configmap pool --from-literal=water=fresh --dry-run=client -o yaml | kubectl apply --server-side --field-manager=anna --force-conflicts -f -")
	wantLast("put:anna:Apply")
	maps := c.Client.CoreV1().ConfigMaps(namespace)
	pool, err := maps.Get(ctx, "pool", metav1.GetOptions{})
	must(t, "get", err)
	pool.Data["fish"] = "none"
	_, err = maps.Update(ctx, pool, metav1.UpdateOptions{FieldManager: "carl"})
	must(t, "update", err)
	wantLast("put:carl:Update")
	must(t, "delete", maps.Delete(ctx, "pool", metav1.DeleteOptions{}))
	wantLast("put:carl:Update delete")

	if _, got := writtenBy(t, ctx, c, "/registry/configmaps/"+namespace+"/"+rootCertificate); !strings.HasPrefix(got, "create:kube-controller-manager:Update") {
		t.Errorf("%s was written by %q, want kube-controller-manager", rootCertificate, got)
	}
	k.run(ctx, "kubectl create deployment web --image=example.org/web")
	until(t, ctx, time.Minute, "a status that a controller writes", func(ctx context.Context) error {
		if _, got := writtenBy(t, ctx, c, "/registry/deployments/"+namespace+"/web"); !strings.Contains(got, "put:kube-controller-manager:Update:status") {
			return fmt.Errorf("written by %q", got)
		}
		return nil
	})

	// And the object comes back.
	out, err := exec.CommandContext(ctx, c.binaries.Limpet, "undelete", "--endpoints", c.Store.Endpoint, key).CombinedOutput()
	if err != nil {
		t.Fatalf("limpet undelete: %v: %s", err, out)
	}
	until(t, ctx, time.Minute, "the object is back", func(ctx context.Context) error {
		back, err := maps.Get(ctx, "pool", metav1.GetOptions{})
		if err == nil && (back.Data["fish"] != "none" || back.UID != pool.UID) {
			err = fmt.Errorf("it came back as %+v", back)
		}
		return err
	})
}

// What Kubernetes' own types and serializer write is read, of several kinds.
func TestHistoryReadsRealObjects(t *testing.T) {
	c, ctx := story(t)
	historyNeedsLimpet(t, c)
	at := metav1.NewTime(time.Unix(1700000000, 0))
	later := metav1.NewTime(at.Add(time.Minute))
	meta := metav1.ObjectMeta{
		Name: "x", Namespace: "y", UID: "z", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": strings.Repeat("d", 1000)},
		CreationTimestamp: at, Generation: 7, Finalizers: []string{"f"}, OwnerReferences: []metav1.OwnerReference{{Kind: "k", Name: "n"}},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "first", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:data":{}}`)},
			{Manager: "last", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &later, FieldsType: "FieldsV1", Subresource: "status", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)},
			{Manager: "other", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &at},
			{Manager: "timeless", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1"},
		},
	}
	replicas := int32(3)
	serializer := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for kind, object := range map[schema.GroupVersionKind]runtime.Object{
		corev1.SchemeGroupVersion.WithKind("Pod"):           &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
		corev1.SchemeGroupVersion.WithKind("Secret"):        &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": {0, 255}}},
		appsv1.SchemeGroupVersion.WithKind("Deployment"):    &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas}},
		coordinationv1.SchemeGroupVersion.WithKind("Lease"): &coordinationv1.Lease{ObjectMeta: meta},
	} {
		var b bytes.Buffer
		object.GetObjectKind().SetGroupVersionKind(kind)
		must(t, "encode", serializer.Encode(object, &b))
		key := "/not-of-the-registry/" + kind.Kind
		_, err := c.Store.Client.Put(ctx, key, b.String())
		must(t, "put", err)
		lines, got := writtenBy(t, ctx, c, key)
		if got != "create:last:Update:status" || lines[0].Kubernetes.Kind != kind.Kind || lines[0].Kubernetes.Time != "2023-11-14T22:14:20Z" {
			t.Errorf("%s: got %q, %+v", kind.Kind, got, lines[0].Kubernetes)
		}
	}
}

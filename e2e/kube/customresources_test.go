package kube

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	whelks      = schema.GroupVersionResource{Group: "shore.example.com", Version: "v1", Resource: "whelks"}
)

// A new kind is defined, which gives the API server one more client of the
// store; its objects live, and go with their definition.
func TestCustomResources(t *testing.T) {
	c, ctx := story(t)
	namespace := newNamespace(t, ctx, c, "custom")
	_, err := c.Dynamic.Resource(definitions).Create(ctx, whelkDefinition(), metav1.CreateOptions{})
	must(t, "define whelks", err)

	objects := c.Dynamic.Resource(whelks).Namespace(namespace)
	until(t, ctx, time.Minute, "whelks served", func(ctx context.Context) error {
		_, err := objects.List(ctx, metav1.ListOptions{})
		return err
	})
	const n = 50
	inParallel(t, 8, n, func(i int) error {
		whelk := &unstructured.Unstructured{}
		whelk.SetGroupVersionKind(whelks.GroupVersion().WithKind("Whelk"))
		whelk.SetName(fmt.Sprintf("whelk-%d", i))
		_, err := objects.Create(ctx, whelk, metav1.CreateOptions{})
		return err
	})
	list, err := objects.List(ctx, metav1.ListOptions{})
	must(t, "list whelks", err)
	if len(list.Items) != n {
		t.Errorf("%d whelks, want %d", len(list.Items), n)
	}

	must(t, "delete the definition", c.Dynamic.Resource(definitions).Delete(ctx, "whelks.shore.example.com", metav1.DeleteOptions{}))
	until(t, ctx, time.Minute, "definition gone", func(ctx context.Context) error {
		_, err := c.Dynamic.Resource(definitions).Get(ctx, "whelks.shore.example.com", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %w", err)
	})
	left, err := c.Store.Revisions(ctx, "/registry/shore.example.com/whelks/")
	must(t, "read the store", err)
	if len(left) != 0 {
		t.Errorf("%d whelks left in the store", len(left))
	}
}

// whelkDefinition is the least that defines a kind.
func whelkDefinition() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1",
		"kind":       "CustomResourceDefinition",
		"metadata":   map[string]any{"name": "whelks.shore.example.com"},
		"spec": map[string]any{
			"group": "shore.example.com",
			"scope": "Namespaced",
			"names": map[string]any{"plural": "whelks", "singular": "whelk", "kind": "Whelk"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}},
			}},
		},
	}}
}

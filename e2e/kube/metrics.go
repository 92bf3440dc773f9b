package kube

import (
	"bytes"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics are counters by name and labels, as Prometheus prints them.
type Metrics []*model.Sample

// parseMetrics reads the Prometheus text form.
func parseMetrics(text []byte) (Metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var samples Metrics
	for _, family := range families {
		vector, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, family)
		if err != nil {
			return nil, err
		}
		samples = append(samples, vector...)
	}
	return samples, nil
}

// Sum adds up the samples of that name that carry all the labels, given as
// name, value, name, value.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for _, sample := range m {
		if sample.Metric[model.MetricNameLabel] != model.LabelValue(name) {
			continue
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && sample.Metric[model.LabelName(labels[i])] == model.LabelValue(labels[i+1])
		}
		if fits {
			sum += float64(sample.Value)
		}
	}
	return sum
}

package main

import (
	"bytes"
	"os"
	"runtime/debug"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/licensedetect/local"
	"github.com/rs/zerolog"
)

const generator = "github.com/CycloneDX/cyclonedx-gomod"

// writeSBOM lists, beside a binary, the modules that it says it was linked from, their
// hashes and licenses. The generator's own command would add the hour, a random
// number and its own hash, which differ from machine to machine.
func (r release) writeSBOM(binary string) error {
	logger := zerolog.New(os.Stderr).Level(zerolog.ErrorLevel) // it warns of each license that it does not find
	g, err := bin.NewGenerator(binary,
		bin.WithLogger(logger),
		bin.WithIncludeStdlib(true),
		bin.WithLicenseDetector(local.NewDetector(logger)),
		bin.WithVersionOverride(r.version))
	if err != nil {
		return err
	}
	bom, err := g.Generate()
	if err != nil {
		return err
	}
	bom.Metadata.Component.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}} // limpet's own LICENSE
	bom.Metadata.Timestamp = r.time.Format(time.RFC3339)
	bom.Metadata.Tools = &cdx.ToolsChoice{Components: &[]cdx.Component{{
		Type: cdx.ComponentTypeApplication, Author: "CycloneDX", Name: "cyclonedx-gomod", Version: generatorVersion(),
	}}}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return err
	}
	return os.WriteFile(binary+".cdx.json", text.Bytes(), 0o644)
}

func generatorVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == generator {
			return m.Version
		}
	}
	return ""
}

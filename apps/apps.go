// Package apps holds the official Apps as any user would write them: a folder each,
// with manifest, template, schema and presets. The hub pushes and activates them at its
// first start.
package apps

import "embed"

// FS holds one folder for each official App.
//
//go:embed video-transcoding hello-world montecarlo
var FS embed.FS

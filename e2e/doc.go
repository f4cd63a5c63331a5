// Package e2e tests Spare as its users meet it: the real programs, started as processes
// on loopback, with real Python and ffmpeg in the real sandbox, and killed without
// mercy. It holds tests only.
package e2e

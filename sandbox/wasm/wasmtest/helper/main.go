// Command helper is a helper of package wasm and nothing else: what tests run.
package main

import "github.com/spare-compute/spare/sandbox/wasm"

func main() { wasm.Init() }

// Command module is an App as a WebAssembly module: it counts the bytes of its chunk.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	data, err := os.ReadFile(filepath.Join(os.Getenv("TASK_DIR"), "data.bin"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if _, err := os.Stat("main.wasm"); err != nil {
		fmt.Println("the working folder is not the App's:", err)
		os.Exit(1)
	}
	text := fmt.Sprintf("%d bytes, %d lines, chunk %s, parameters %s\n", len(data), bytes.Count(data, []byte("\n")), os.Getenv("CHUNK_NUMBER"), os.Getenv("APP_PARAMS"))
	if err := os.WriteFile(filepath.Join(os.Getenv("TASK_RESULTS_DIR"), "count.txt"), []byte(text), 0o644); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("counted")
}

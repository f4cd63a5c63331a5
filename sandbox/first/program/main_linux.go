// Command program is the first process of a sandbox and nothing else. A program that has
// it inside (build tag embedfirst) starts it in place of itself, because a process of a
// few packages is ready sooner than one of hundreds.
package main

import "github.com/spare-compute/spare/sandbox/first"

func main() { first.Run() }

package assemble_test

import (
	"os"
	"testing"

	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/sandbox"
)

// tools run ffmpeg in the sandbox, as the hub does.
var tools = media.New()

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// leaves is an attack by what is left in the results folder, OUT, for whoever collects it.
// It succeeds if it could be made and package bundle takes it.
func leaves(name, tries, script string) Attack {
	return Attack{
		Name: name, Tries: tries, Collected: true, Script: script,
		Unshown: "the rules for results stop it after the run; that they bite is shown by the file being there",
	}
}

// smuggles is an attack by what a submitter writes into a job.
func smuggles(name, tries string, env, args []string, script string) Attack {
	return Attack{
		Name: name, Tries: tries, Script: script,
		Unshown: "there is no shell and no joined text on the way that could be put back",
		Load:    &Load{Env: env, Args: args, Limits: sandbox.Limits{Memory: 256 << 20, Processes: 40, Wall: 15 * time.Second}},
	}
}

var results = []Attack{
	leaves("result is a link", "Leaves a symbolic link to a file of the host.", `os.symlink(H["secret"], OUT + "/result")`),
	leaves("result is a link to a folder", "Leaves a symbolic link to a folder of the host, with a name that a later file would go through.", `os.symlink("../../../../..", OUT + "/results")`),
	leaves("result is a hard link", "Leaves one file under two names.", `
open(OUT + "/a", "w").close()
os.link(OUT + "/a", OUT + "/b")`),
	leaves("result is a pipe", "Leaves a named pipe, at which a reader waits for ever.", `os.mkfifo(OUT + "/result")`),
	leaves("result is a socket", "Leaves a socket.", `
os.chdir(OUT)
socket.socket(socket.AF_UNIX).bind("result")`),
	leaves("result is a device", "Leaves a device node.", `
import stat
os.mknod(OUT + "/result", 0o666 | stat.S_IFCHR, os.makedev(1, 5))`),
	leaves("result's name is no text", "Leaves a file whose name is not UTF-8.", `os.close(os.open(OUT.encode() + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))`),
	leaves("result's name has control characters", "Leaves a file whose name has line ends and escape codes in it.", `open(OUT + "/a\n\x1b[2J", "w").close()`),
	leaves("result's name is a path elsewhere", "Leaves a file whose name is a path on another system.", `open(OUT + "/..\\..\\up", "w").close()`),
	leaves("result's name is a device's", "Leaves files that mean devices on Windows.", `open(OUT + "/con.txt", "w").close()`),
	leaves("result's name has a stream", "Leaves a file whose name means a hidden stream on Windows.", `open(OUT + "/result:hidden", "w").close()`),
	leaves("results differ by case", "Leaves two files that are one on other systems.", `
open(OUT + "/Result", "w").close()
open(OUT + "/result", "w").close()`),
	leaves("result's path is too long", "Leaves a file at the end of a path longer than other systems take.", `
os.chdir(OUT)
for _ in range(10):
    os.mkdir("n" * 200)
    os.chdir("n" * 200)
open("f", "w").close()`),
	leaves("results lie too deep", "Leaves a file below more folders than anybody needs.", `
os.chdir(OUT)
for _ in range(100):
    os.mkdir("d")
    os.chdir("d")
open("f", "w").close()`),
	leaves("results are too many", "Leaves more files than may be collected.", `
for i in range(H["files"] + 1): open(OUT + "/%d" % i, "w").close()`),
	leaves("result claims too much", "Leaves a file that claims more bytes than may be collected.", `os.truncate(os.open(OUT + "/f", os.O_CREAT | os.O_RDWR), H["bytes"] + 1)`),
	smuggles("give commands by output", "Prints what other systems take for commands (CVE-2020-15228).", nil, nil, `
for line in ["::set-env name=LD_PRELOAD::/spare/rw/x.so", "::add-path::/spare/rw", "##vso[task.setvariable variable=PATH]/spare/rw", "##teamcity[buildStop]", "SPARE_EXIT=0", "\x1b]0;owned\x07\x1b[2J"]:
    print(line)
return None`),
	smuggles("smuggle a variable", "Hides a second variable behind a line end in a parameter's value (CVE-2022-39321).",
		[]string{"APP_PARAMS={\"a\": \"b\nSPARE_SMUGGLED=1\r\nSPARE_SMUGGLED=2\"}"}, nil, `
if "SPARE_SMUGGLED" in os.environ: return "it is set"
return "SPARE_SMUGGLED=1" not in os.environ["APP_PARAMS"] and "the parameters are cut: %r" % os.environ["APP_PARAMS"]`),
	smuggles("smuggle options", "Passes arguments that an engine or a shell would take for its own.", nil,
		[]string{"--privileged", "--volume=/:/spare/host", "$(touch /spare/rw/shell)", "; touch /spare/rw/shell", "`touch /spare/rw/shell`", "&& touch /spare/rw/shell", "", "a b", "'", "\""}, `
if os.path.exists("/spare/host") or os.path.exists(RW + "/shell"): return "it was obeyed"
return sys.argv[1:] != H["args"] and "the arguments came as %r" % sys.argv[1:]`),
	smuggles("load a library into the host", "Sets variables by which the host's own helpers would load a library or write a file, if they saw them (CVE-2025-23266).",
		[]string{"LD_DEBUG=files", "LD_DEBUG_OUTPUT={open}/leak", "GODEBUG=inittrace=1", "BASH_ENV={open}/x", "CONTAINERS_CONF={open}/x"}, nil, `return None`),
}

"""What cluster.py and scenarios.py remove: their own folders alone, whatever a person or another user has put in their place. Starts no Slurm."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import cluster
import scenarios

DEAD = "2 1"  # no process of that number began at that time


class Folders(unittest.TestCase):
    def setUp(self) -> None:
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix=cluster.PREFIX, dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.scratch, ignore_errors=True)
        (self.scratch / "precious").write_text("a person's")

    def test_an_orphan_is_removed_where_a_cluster_has_marked_it(self) -> None:
        (self.scratch / "owner").write_text(DEAD)
        link = self.scratch.with_name(self.scratch.name + "-link")
        link.symlink_to(self.scratch)
        self.addCleanup(link.unlink, missing_ok=True)
        cluster.end_orphans()
        self.assertTrue((self.scratch / "precious").exists(), "a folder without the mark was removed")
        (self.scratch / cluster.MARK).symlink_to(self.scratch / "precious")
        cluster.end_orphans()
        self.assertTrue((self.scratch / "precious").exists(), "a link is no mark")
        (self.scratch / cluster.MARK).unlink()
        (self.scratch / cluster.MARK).touch()
        self.scratch.chmod(0o777)
        cluster.end_orphans()
        self.assertTrue((self.scratch / "precious").exists(), "everybody could have made the mark")
        self.scratch.chmod(0o700)
        cluster.end_orphans()
        self.assertFalse(self.scratch.exists())

    def test_a_folder_of_other_files_becomes_no_cluster(self) -> None:
        command = [sys.executable, cluster.__file__, "start", str(self.scratch)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("holds files that are no cluster's", done.stderr)
        self.assertEqual([path.name for path in self.scratch.iterdir()], ["precious"])

    def test_a_reference_replaces_nothing_else(self) -> None:
        link = self.scratch / "link"
        link.symlink_to(self.scratch)
        for folder in (self.scratch, self.scratch / "precious", link):
            with self.assertRaises(SystemExit):
                scenarios.remove_reference(folder)
        self.assertTrue((self.scratch / "precious").exists())
        for text in ('{"name": "other"}', "[1]", "{"):
            (self.scratch / "plan.json").write_text(text)
            with self.assertRaises(SystemExit):
                scenarios.remove_reference(self.scratch)
        (self.scratch / "plan.json").write_text('{"name": "slurm"}')
        scenarios.remove_reference(self.scratch)
        self.assertFalse(self.scratch.exists())
        scenarios.remove_reference(self.scratch)


if __name__ == "__main__":
    unittest.main()

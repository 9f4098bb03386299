"""Input tables and outputs of a training run."""

import json
import sys

import pytest
from toys import SINGLE_PROCESS, make_trainer, tiny_config, write_split

from partloc.commands import infer
from partloc.config import ConfigError
from partloc.model.model_file import load_model, save_model
from partloc.system.files import load_tensors, save_tensors
from partloc.training import fingerprint
from partloc.training.run import read_tables, run_training, write_outputs
from partloc.training.run_folder import RunFolder
from partloc.training.trainer import Trainer


@pytest.fixture
def run_infer(monkeypatch, capsys):
    """A function that runs the stage infer on the CPU and returns what it prints."""

    def run_stage(*arguments) -> str:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["infer", *words, "--device", "cpu"])
        infer.run()
        return capsys.readouterr().out

    return run_stage


def test_missing_training_samples_are_reported_with_the_file(toy_split, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.csv: .* run the stages index and split"):
        read_tables(tmp_path, tmp_path)
    header = (toy_split / "train.csv").read_text().splitlines()[0] + "\n"
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(header)
    with pytest.raises(ValueError, match="train.csv: no samples"):
        read_tables(tmp_path, tmp_path)


def set_pose_losses(trainer, *values):
    """Replace the pose loss of each validation; return the original `validate`."""
    validate, remaining = trainer.validate, iter(values)
    trainer.validate = lambda: validate() | {"pose_loss": next(remaining)}
    return validate


def write_and_reload(trainer, root) -> None:
    write_outputs(trainer, root / "models", root / "reports")
    trainer.objective.model = trainer.model = load_model(root / "models" / "best_model.pth")


def test_the_weights_of_the_best_epoch_are_written(tables, tmp_path):
    trainer = make_trainer(tiny_config(train={"num_epochs": 3}), *tables)
    validate = set_pose_losses(trainer, 0.4, 0.2, 0.3)
    folder = RunFolder(tmp_path / "runs", "f" * 16)
    trainer.fit(folder)
    assert trainer.state.best_epoch == 2
    assert folder.load_state()["best_metric"] == {"name": "val_pose_loss", "value": 0.2, "epoch": 2}

    trainer.state.load_best()
    write_and_reload(trainer, tmp_path)
    output = (tmp_path / "models" / "best_model.pth").read_bytes()
    assert (folder.path / "best_model.pth").read_bytes() == output
    error = trainer.state.history[1]["val_labelled_error"]
    assert validate()["labelled_error"] == pytest.approx(error, rel=1e-6)
    assert error != pytest.approx(trainer.state.history[2]["val_labelled_error"], rel=1e-6)


def test_the_run_folder_has_the_best_model_from_the_first_epoch_on(
    tables, toy_split, tmp_path, run_infer
):
    """It is a model file, with which `infer` works while the training still runs."""
    trainer = make_trainer(tiny_config(train={"num_epochs": 3}), *tables)
    set_pose_losses(trainer, 0.4, 0.5, 0.3)
    folder, best_epochs = RunFolder(tmp_path / "runs", "f" * 16), []
    train_epoch = trainer.train_epoch

    def check_and_train(folder):
        if trainer.state.epoch:
            best_epochs.append(load_tensors(folder.best_model)["info"]["best_epoch"])
        return train_epoch(folder)

    trainer.train_epoch = check_and_train
    trainer.fit(folder)
    assert best_epochs == [1, 1]
    assert load_tensors(folder.best_model)["info"]["best_epoch"] == 3
    images = tables[0].data_dir / "chair"
    names = ("--whole", images / "chair-whole.png", "--part", images / "chair-seat.png")
    answer = json.loads(run_infer("--checkpoint", folder.best_model, *names))
    assert answer.keys() == {"translation", "scale", "confidence"}


def test_starting_weights_are_written_if_no_epoch_is_better(tables, tmp_path):
    weights = tmp_path / "starting.pth"
    save_model(weights, make_trainer(tiny_config(), *tables).model, {})
    config = tiny_config(model={"start_from": str(weights)}, train={"num_epochs": 2})
    trainer = make_trainer(config, *tables)
    validate = set_pose_losses(trainer, 0.1, 0.3, 0.2)
    folder = RunFolder(tmp_path / "runs", "f" * 16)
    trainer.fit(folder)
    assert trainer.state.best_epoch == 0
    assert load_tensors(folder.best_model)["info"]["best_epoch"] == 0

    resumed = make_trainer(config, *tables)
    resumed.state.restore(folder.load_state())
    assert resumed.state.best_epoch == 0
    resumed.state.load_best()
    write_outputs(resumed, tmp_path / "models", tmp_path / "reports")
    report = json.loads((tmp_path / "reports/report.json").read_text())
    assert report["best"] == report["history"][0]
    assert (report["best"]["epoch"], report["best"]["val_pose_loss"]) == (0, 0.1)
    losses = json.loads((tmp_path / "reports/loss.json").read_text())["loss"]
    drawn = [(record["samples"], record["epoch"]) for record in losses]
    validated = [("validation", epoch) for epoch in range(3)]
    assert drawn == [("training", epoch) for epoch in (1, 2)] + validated
    trainer.objective.model = load_model(tmp_path / "models" / "best_model.pth")
    error = trainer.state.history[0]["val_labelled_error"]
    assert validate()["labelled_error"] == pytest.approx(error)


# -- edits during a training -------------------------------------------------------------------


class Project:
    """A training of one epoch from starting weights, whose inputs can be edited while it runs."""

    def __init__(self, root, tables, monkeypatch) -> None:
        self.root, self.split, self.code = root, write_split(root), {"partloc/a.py": "0"}
        self.weights = root / "starting.pth"
        save_model(self.weights, make_trainer(tiny_config(), *tables).model, {})
        self.config = self.make_config()
        self.num_epochs, self.num_finished = 0, 0  # in all trainings
        monkeypatch.setattr(fingerprint, "source_hashes", lambda: dict(self.code))
        train_epoch = Trainer.train_epoch

        def count_and_train(trainer, folder):
            self.num_epochs += 1
            return train_epoch(trainer, folder)

        monkeypatch.setattr(Trainer, "train_epoch", count_and_train)

    def make_config(self, **train):
        return tiny_config(
            data={"image_size": 28, "data_dir": str(self.root / "images")},
            model={"start_from": str(self.weights)},
            train=train | {"num_epochs": 1},
        )

    def train(self, edit=lambda: None, resume=True) -> None:
        """Train; `edit` is called before the end."""

        def reload_config():
            edit()
            return self.config

        def finish(_trainer) -> None:
            self.num_finished += 1

        runs, config = self.root / "runs", self.config
        run_training(config, SINGLE_PROCESS, self.split, runs, resume, finish, reload_config)


@pytest.fixture
def project(tmp_path, tables, monkeypatch) -> Project:
    return Project(tmp_path, tables, monkeypatch)


def edit_code(project) -> str:
    project.code["partloc/a.py"] = "1"
    return "partloc/a.py"


def edit_parameters(project) -> str:
    project.config = project.make_config(w_scale=2.0)
    return "train.w_scale"


def edit_starting_weights(project) -> str:
    project.weights.write_bytes(project.weights.read_bytes() + b"0")
    return str(project.weights)


def edit_split(project) -> str:
    path = project.split / "val.csv"
    path.write_text(path.read_text().replace("0.", "0.1", 1))
    return str(path)


@pytest.mark.parametrize("edit", [edit_code, edit_parameters, edit_starting_weights, edit_split])
def test_an_edit_during_the_training_is_refused_and_undone_the_training_is_used(project, edit):
    config, code = project.config, dict(project.code)
    files = {path: path.read_bytes() for path in (project.weights, project.split / "val.csv")}
    names = []
    with pytest.raises(ConfigError, match="edited while the training ran") as caught:
        project.train(lambda: names.append(edit(project)))
    assert f"ran: {names[0]}. DVC would" in str(caught.value)
    assert (project.num_epochs, project.num_finished) == (1, 0)

    project.config, project.code = config, code
    for path, content in files.items():
        path.write_bytes(content)
    project.train()
    assert (project.num_epochs, project.num_finished) == (1, 1)


def test_replaced_starting_weights_of_the_same_name_train_anew(project):
    project.train()
    project.train()  # as after a kill of DVC: the outputs are written again
    assert (project.num_epochs, project.num_finished) == (1, 2)
    weights = load_tensors(project.weights)
    weights["info"]["origin"] = "another training"
    save_tensors(project.weights, weights)
    project.train()
    assert (project.num_epochs, project.num_finished) == (2, 3)


def test_how_often_states_are_saved_is_no_reason_to_train_again(project):
    project.train()
    project.config = project.make_config(state_every_minutes=3.0)
    project.train()
    assert project.num_epochs == 1
    project.train(resume=False)
    assert project.num_epochs == 2

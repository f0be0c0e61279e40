"""What several test files share: a tiny labelled file that a network can learn, and one run trained on it."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

GOOD = ["good", "great", "lovely", "fine", "superb", "nice"]
BAD = ["bad", "awful", "poor", "sad", "horrid", "nasty"]
PLAIN = ["table", "paper", "window", "road", "river", "stone"]
THINGS = ["film", "phone", "hotel", "book", "song"]


def make_rows() -> list[tuple[str, str]]:
    """90 different texts, 30 a class, of different lengths; the class follows from one word."""
    rows = []
    for label, words in (("negative", BAD), ("neutral", PLAIN), ("positive", GOOD)):
        for i, word in enumerate(words):
            rows += [(f"the {thing} was {'really ' * ((i + j) % 4)}{word}", label) for j, thing in enumerate(THINGS)]
    return rows


@pytest.fixture(scope="session", autouse=True)
def whole_batches():
    """Batches in one part: tracing parts costs seconds a model. test_kernels.py and tests of commands have them."""
    from keras_senti.models import kernels

    kernels.MOST_PARTS = 1


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    path.write_text("text,sentiment\n" + "".join(f"{text},{label}\n" for text, label in make_rows()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_settings(tiny_csv) -> list[str]:
    """Command-line arguments of a run that takes seconds and learns the tiny file."""
    return (
        f"--name tiny --data.csv {tiny_csv} --text.sequence_length 12 --model.units 8 --model.embedding_dim 6 "
        "--train.epochs 12 --train.batch_size 8 --train.learning_rate 0.03 --model.embedding_dropout 0.1 "
        f"--data.cache_dir {tiny_csv.parent / 'cache'}"
    ).split()


@pytest.fixture(scope="session")
def language_model():
    """What a language model would have learned, as `Pretrained`: one direction, 5 units, random weights."""
    import numpy as np

    from keras_senti.export.weights_folder import Pretrained
    from keras_senti.models.build import build_language_model
    from keras_senti.models.weights import name_weights
    from keras_senti.settings.command_line import parse_config

    arguments = "--name tiny_lm --task language_model --data.source tweets --model.bidirectional false --model.units 5"
    config = parse_config([*arguments.split(), "--model.embedding_dim", "4", "--text.lowercase", "false"])
    vocabulary = ["[PAD]", "[UNK]", "the", "was", "film", "hotel", "good", "awful"]
    model = build_language_model(config, len(vocabulary))
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=v.shape).astype("float32") for name, v in name_weights(model).items()}
    return Pretrained(config, vocabulary, (), weights)


@pytest.fixture(scope="session")
def trained_run(tiny_settings, tmp_path_factory) -> Path:
    """The folder of a finished run on the tiny file; tests only read it (evaluations/ is theirs)."""
    from keras_senti.settings.command_line import parse_config
    from keras_senti.tasks import train

    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    return train.train_run(parse_config([*tiny_settings, "--run_dir", str(run_dir)]))


@pytest.fixture
def stub_trials(monkeypatch):
    """Trials of studies and searches are those of stub_trial.py, which take a second."""
    from keras_senti.experiments import trial

    monkeypatch.setattr(trial, "COMMAND", [sys.executable, str(ROOT / "tests" / "stub_trial.py")])
    monkeypatch.setattr(trial, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def chromium_driver():
    chromium, chromedriver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver are not both installed (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("headless=new", "no-sandbox", "disable-gpu", "enable-unsafe-swiftshader", "disable-quic",
                 "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", "window-size=1500,1400"):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # An explicit driver: without one Selenium asks the internet.
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium_driver):
    """Headless Chromium, its console kept from now on; tests that change its size change it back."""
    chromium_driver.get_log("browser")  # what it has said until now is of other tests
    yield chromium_driver
    chromium_driver.get("about:blank")  # TensorBoard's pages would keep a core busy beside all tests to come

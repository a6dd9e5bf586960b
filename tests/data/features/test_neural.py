import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from PIL import Image

from bench.data.features import neural, vectors
from bench.data.features.image_model import ImageEncoder
from bench.data.features.neural import encode_pictures, encode_texts, require
from bench.data.raw.rawfiles import RawFile
from bench.data.recipes.modalities import ImageModel, SentenceTransformer, TfidfSvd
from bench.errors import DataError

WORDS = ["red", "blue", "shoe", "shirt", "for", "men", "women", "a", "the"]
TEXTS = ["red shoe", "blue shirt for women", "a", "red shoe", "the blue shoe for men"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of tiny models with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    picture = sizes | {"image_size": 16, "patch_size": 8}

    vocabulary = {word: row for row, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    bert = transformers.BertModel(
        transformers.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=12, **sizes)
    )
    for name, model in (("bert", bert), ("bert16", bert.bfloat16())):
        model.save_pretrained(folder / name)
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder / name)

    vit = transformers.ViTConfig(**picture)
    transformers.ViTModel(vit).save_pretrained(folder / "vit")
    transformers.ViTModel(vit).bfloat16().save_pretrained(folder / "vit16")
    transformers.ViTForImageClassification(vit).save_pretrained(folder / "vit-without-pooler")
    clip = transformers.CLIPConfig(
        text_config=sizes | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=picture,
        projection_dim=12,
    )
    transformers.CLIPModel(clip).save_pretrained(folder / "clip")
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    transformers.ResNetModel(resnet).save_pretrained(folder / "resnet")
    convnext = transformers.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2)
    transformers.ConvNextModel(convnext).save_pretrained(folder / "convnext")
    kinds = dict.fromkeys(("vit", "vit16", "vit-without-pooler"), "ViT")
    kinds |= {"clip": "CLIP", "resnet": "ConvNext", "convnext": "ConvNext"}
    for name, kind in kinds.items():
        size = {"shortest_edge": 224} if kind == "ConvNext" else {"height": 16, "width": 16}
        settings = {"image_processor_type": f"{kind}ImageProcessor", "size": size, "do_center_crop": False}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def lines():
    return []


@pytest.fixture
def texts(models, tmp_path, lines):
    """Encode texts with a cache of the test's own."""

    def run(entries=TEXTS, model="bert", batch_size=2, cache="cache", device="cpu"):
        feature = SentenceTransformer(
            encoder="sentence-transformers", model=str(models / model), fields=("title",), batch_size=batch_size
        )
        return encode_texts(feature, entries, tmp_path / cache, device, lines.append)

    return run


@pytest.fixture
def pictures(models, tmp_path, lines):
    """Encode files with a cache of the test's own."""

    def run(paths, model="vit", batch_size=2, cache="cache", device="cpu"):
        feature = ImageModel(encoder="image", model=str(models / model), images=("{id}.jpg",), batch_size=batch_size)
        files = [RawFile(path.name, path, None, str(path)) for path in paths]
        return encode_pictures(feature, files, tmp_path / cache, device, lines.append)

    return run


@pytest.fixture
def shots(tmp_path):
    """Seven pictures of noise, of which the last repeats the first."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(7):
        pixels = random.integers(0, 256, size=(20, 20 + number % 3, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    paths[-1].write_bytes(paths[0].read_bytes())
    return paths


def mean_over_tokens(model, texts, tokenizer):
    """What a plain BERT gives for each text, one at a time, without any batching."""
    rows = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            rows.append(model(**tokens).last_hidden_state[0].mean(dim=0).numpy())
    return np.stack(rows)


def test_texts_get_the_models_vectors_in_their_order(models, texts):
    model = transformers.BertModel.from_pretrained(models / "bert", dtype=torch.float32).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(models / "bert")
    found = texts()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, mean_over_tokens(model, TEXTS, tokenizer), atol=1.1e-5)
    assert (found[0] == found[3]).all()
    assert len(np.unique(found, axis=0)) == 4


def test_a_models_own_pooling_is_used(models, tmp_path, texts):
    from sentence_transformers.sentence_transformer import modules as parts

    body = parts.Transformer(str(models / "bert"))
    own = sentence_transformers.SentenceTransformer(modules=[body, parts.Pooling(16, "cls"), parts.Normalize()])
    own.save(str(tmp_path / "own"))
    found = texts(model=tmp_path / "own")
    np.testing.assert_allclose(found, own.float().encode(TEXTS), atol=1.1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_weights_of_half_precision_are_computed_with_in_full(models, texts):
    half = transformers.BertModel.from_pretrained(models / "bert16", dtype="auto")
    assert half.dtype == torch.bfloat16
    tokenizer = transformers.BertTokenizer.from_pretrained(models / "bert16")
    expected = mean_over_tokens(half.float().eval(), TEXTS, tokenizer)
    np.testing.assert_allclose(texts(model="bert16"), expected, atol=1.1e-5)


def test_texts_do_not_depend_on_their_batch_and_come_rounded(texts):
    one, many = texts(batch_size=1, cache="one"), texts(batch_size=64, cache="many")
    np.testing.assert_allclose(one, many, atol=1.1e-5)
    assert (one.astype(np.float64).round(5).astype(np.float32) == one).all()


def test_each_text_is_encoded_once_and_never_again(texts, lines, monkeypatch):
    encoded = []
    encode = sentence_transformers.SentenceTransformer.encode
    monkeypatch.setattr(
        sentence_transformers.SentenceTransformer,
        "encode",
        lambda self, batch, **options: (encoded.append(list(batch)), encode(self, batch, **options))[1],
    )
    first = texts()
    assert encoded == [["the blue shoe for men", "blue shirt for women"], ["red shoe", "a"]]
    monkeypatch.setattr(neural, "_load_text_model", pytest.fail)
    again = texts(TEXTS[::-1])
    assert again[::-1].tobytes() == first.tobytes()
    assert [line.partition(": ")[2] for line in lines] == [
        "4 encoded, 0 known from before",
        "0 encoded, 4 known from before",
    ]


def test_an_interrupted_run_goes_on_where_it_was(texts, lines, monkeypatch):
    monkeypatch.setattr(vectors, "BATCHES_PER_PART", 1)
    fresh = texts(batch_size=1, cache="undisturbed")
    encode, calls = sentence_transformers.SentenceTransformer.encode, []

    def interrupted(self, batch, **options):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers.SentenceTransformer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            texts(batch_size=1)
    resumed = texts(batch_size=1)
    assert lines[-1].endswith("2 encoded, 2 known from before")
    assert resumed.tobytes() == fresh.tobytes()


def test_a_text_with_half_a_character_is_encoded(texts):
    assert np.isfinite(texts(["red \ud800 shoe"])).all()


def test_no_texts_at_all_are_refused(texts):
    with pytest.raises(DataError, match="There is no text to encode for the model .*Check the recipe's text fields"):
        texts([])


def pixels_of(models, name, paths):
    processor = transformers.AutoImageProcessor.from_pretrained(models / name, backend="pil")
    images = [Image.open(path).convert("RGB") for path in paths]
    return [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]


def clip_vector(model, pixels):
    return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("vit", lambda model, pixels: model(pixels).pooler_output),
        ("vit16", lambda model, pixels: model(pixels).pooler_output),
        ("vit-without-pooler", lambda model, pixels: model(pixels).last_hidden_state[:, 1:].mean(dim=1)),
        ("clip", clip_vector),
        ("resnet", lambda model, pixels: model(pixels).last_hidden_state.mean(dim=(2, 3))),
        ("convnext", lambda model, pixels: model(pixels).pooler_output),
    ],
)
def test_pictures_get_the_vector_that_suits_the_model(models, pictures, shots, name, vector):
    model = transformers.AutoModel.from_pretrained(models / name).float().eval()
    with torch.no_grad():
        expected = np.concatenate([vector(model, pixels).numpy() for pixels in pixels_of(models, name, shots)])
    found, ok = pictures(shots, model=name)
    assert found.dtype == np.float32
    assert ok.tolist() == [True] * 7
    np.testing.assert_allclose(found, expected, atol=1.1e-5)
    assert (found[6] == found[0]).all()
    assert len(np.unique(found, axis=0)) == 6


def test_the_tokens_of_registers_are_no_patches(tmp_path, shots):
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8, num_register_tokens=3
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path / "dino")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = ImageEncoder(str(tmp_path / "dino"), "cpu", local_only=True)
    encoder._has_pooler = False
    pixels = encoder.prepare(shots[0].read_bytes())
    with torch.no_grad():
        tokens = encoder._model(pixel_values=torch.from_numpy(pixels[None])).last_hidden_state
    assert tokens.shape == (1, 1 + 3 + 4, 16)
    np.testing.assert_allclose(encoder.encode([pixels]), tokens[:, 4:].mean(dim=1).numpy(), atol=1e-6)


def test_each_content_is_encoded_once_and_never_again(pictures, shots, lines, monkeypatch):
    encoded = []
    encode = ImageEncoder.encode
    monkeypatch.setattr(ImageEncoder, "encode", lambda self, some: (encoded.append(len(some)), encode(self, some))[1])
    first, _ = pictures(shots, batch_size=4)
    assert encoded == [4, 2]
    monkeypatch.setattr(neural, "ImageEncoder", pytest.fail)
    again, ok = pictures(shots[::-1])
    assert again[::-1].tobytes() == first.tobytes()
    assert ok.all()
    assert [line.partition(": ")[2] for line in lines] == [
        "6 encoded, 0 known from before",
        "0 encoded, 6 known from before",
    ]


def test_interrupted_pictures_go_on_where_they_were(pictures, shots, lines, monkeypatch):
    monkeypatch.setattr(vectors, "BATCHES_PER_PART", 1)
    fresh, _ = pictures(shots, cache="undisturbed")
    encode, calls = ImageEncoder.encode, []

    def interrupted(self, some):
        calls.append(some)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, some)

    with monkeypatch.context() as patch:
        patch.setattr(ImageEncoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pictures(shots)
    resumed, _ = pictures(shots)
    assert lines[-1].endswith("4 encoded, 2 known from before")
    assert resumed.tobytes() == fresh.tobytes()


def test_unreadable_pictures_are_told_apart_and_get_no_row(pictures, shots, tmp_path, lines):
    shots[1].write_bytes(shots[1].read_bytes()[:200])
    shots[3].write_bytes(b"<html>")
    shots[4].unlink()
    shots.append(tmp_path / "7.png")
    shots[7].write_bytes(b"<html>")
    found, ok = pictures(shots)
    assert ok.tolist() == [True, False, True, False, False, True, True, False]
    assert not found[~ok].any()
    assert found[ok].any(axis=1).all()
    line = lines[0]
    assert line.startswith(f"4 of 8 pictures cannot be read: {shots[1]} (")
    assert f"{shots[3]} (cannot identify image file" in line
    assert line.endswith(" and 1 more")
    again, still = pictures(shots)
    assert (again.tobytes(), still.tolist()) == (found.tobytes(), ok.tolist())


def test_pictures_of_which_none_can_be_read_are_an_error(pictures, tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 pictures cannot be read: .*1\.jpg \(.*\)\. Without a single picture"):
        pictures([tmp_path / "1.jpg"])


def test_a_picture_of_a_single_line_is_encoded(pictures, tmp_path):
    for name, size in (("a", (1, 1)), ("b", (9, 3)), ("c", (3, 1))):
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / f"{name}.png")
    found, ok = pictures([tmp_path / f"{name}.png" for name in "abc"])
    assert ok.all()
    np.testing.assert_allclose(found, found[[0, 0, 0]], atol=2e-5)


def test_a_bomb_is_a_bad_picture_and_no_warning(pictures, shots, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 410)
    _, ok = pictures(shots)
    assert ok.tolist() == [True, False, False, True, False, False, True]
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]


def test_vectors_of_different_models_do_not_mix(texts, pictures, shots, tmp_path):
    pictures(shots)
    pictures(shots, model="clip")
    texts()
    names = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["image-clip", "image-vit", "sentence-transformers-bert"]


@pytest.mark.parametrize("encode", ["texts", "pictures"])
def test_a_folder_without_a_model_is_named(request, tmp_path, shots, encode):
    (tmp_path / "empty").mkdir()
    run = request.getfixturevalue(encode)
    with pytest.raises(DataError, match=r"The model '.*empty' cannot be loaded: .*\. The folder should hold a whole"):
        run(TEXTS if encode == "texts" else shots, model=tmp_path / "empty")


def test_a_model_of_texts_is_refused_for_pictures(pictures, shots):
    with pytest.raises(DataError, match=r"The model '.*bert' cannot be loaded: .*\. The folder should hold a whole"):
        pictures(shots, model="bert")


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_model_that_cannot_be_downloaded_is_an_error_that_says_what_to_do(offline, tmp_path, lines):
    feature = SentenceTransformer(encoder="sentence-transformers", model="no-one/no-model", fields=("title",))
    with pytest.raises(DataError) as caught:
        encode_texts(feature, TEXTS, tmp_path, "cpu", lines.append)
    message = str(caught.value)
    assert message.startswith("The model 'no-one/no-model' cannot be loaded: ")
    assert "The Hugging Face hub cannot be reached" in message
    assert "Download it elsewhere (hf download no-one/no-model --local-dir FOLDER) and give the folder" in message


def test_an_image_model_that_cannot_be_downloaded_is_an_error_too(offline, tmp_path, shots, lines):
    feature = ImageModel(encoder="image", model="no-one/no-model", images=("{id}.png",))
    files = [RawFile(path.name, path, None, str(path)) for path in shots]
    with pytest.raises(DataError, match="The model 'no-one/no-model' cannot be loaded.*hub cannot be reached"):
        encode_pictures(feature, files, tmp_path, "cpu", lines.append)


def test_a_model_that_the_hub_does_not_have_is_another_error(monkeypatch):
    monkeypatch.setattr(neural, "_hub_answers", lambda: True)

    def load(name, local_only):
        assert (name, local_only) == ("no-one/no-model", False)
        raise OSError("no-one/no-model is not a model identifier.\nMore")

    with pytest.raises(DataError, match="is not a model identifier. Check the name on huggingface.co"):
        neural._loaded("no-one/no-model", load)


def test_a_checkpoint_that_lacks_weights_is_refused(models, tmp_path, pictures, shots):
    model = transformers.ViTModel.from_pretrained(models / "vit")
    kept = {key: value for key, value in model.state_dict().items() if "layernorm.weight" not in key}
    model.save_pretrained(tmp_path / "half", state_dict=kept)
    settings = (models / "vit" / "preprocessor_config.json").read_text()
    (tmp_path / "half" / "preprocessor_config.json").write_text(settings)
    with pytest.raises(DataError, match=r"half' lacks 1 of its weights, first layernorm\.weight; they would be random"):
        pictures(shots, model=tmp_path / "half")


def test_a_model_that_gives_no_vectors_is_refused(models, shots):
    encoder = ImageEncoder(str(models / "vit"), "cpu", local_only=True)
    encoder._vectors = lambda batch: None
    with pytest.raises(DataError, match=r"should give one vector per picture, \[1, D\], but gives: None"):
        encoder.encode([encoder.prepare(shots[0].read_bytes())])


def test_values_that_are_not_numbers_are_refused(texts, monkeypatch):
    monkeypatch.setattr(
        sentence_transformers.SentenceTransformer,
        "encode",
        lambda self, batch, **options: np.full((len(batch), 2), np.nan),
    )
    with pytest.raises(DataError, match="gives values that are NaN or infinite; its weights are not sound"):
        texts()


def test_too_little_memory_is_an_error_that_names_the_batch(texts, monkeypatch):
    def full(self, batch, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", full)
    with pytest.raises(DataError, match="does not hold a batch of 2. Give the feature a smaller batch_size"):
        texts()


def test_other_failures_of_a_model_keep_their_traceback(texts, monkeypatch):
    def broken(self, batch, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        texts()


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_the_device_auto_is_the_gpu_if_there_is_one(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert neural._resolved("auto") == chosen
    assert neural._resolved("cpu") == "cpu"


def test_a_device_that_is_not_there_is_an_error(texts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="The device 'cuda:0' was asked for, but PyTorch finds no GPU here"):
        texts(device="cuda:0")
    with pytest.raises(DataError, match="There is no device 'gpu'. Use auto, cpu, cuda or cuda:0"):
        texts(device="gpu")


TEXT = SentenceTransformer(encoder="sentence-transformers", model="x", fields=("title",))
IMAGE = ImageModel(encoder="image", model="x", images=("{id}.jpg",))
PLAIN = TfidfSvd(encoder="tfidf-svd", fields=("title",))


def test_libraries_that_are_there_are_enough():
    require([TEXT, IMAGE, PLAIN])


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ({"PIL"}, r"the encoder 'image' need libraries that are not installed \(PIL\)"),
        ({"sentence_transformers"}, r"the encoder 'sentence-transformers' need .* \(sentence_transformers\)"),
        ({"transformers"}, r"the encoder 'sentence-transformers' and 'image' need .* \(transformers\)"),
    ],
)
def test_libraries_that_are_not_there_are_named_with_what_to_do(monkeypatch, lacking, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else find(name))
    require([PLAIN])
    with pytest.raises(DataError, match=words) as caught:
        require([PLAIN, TEXT, IMAGE])
    assert "pip install 'ld4mrec-bench[features]', or leave the modality out, as in --feature visual=none" in str(
        caught.value
    )


def test_importing_and_checking_loads_none_of_the_libraries():
    script = (
        "import sys; from bench.data.features import neural; from bench.data.recipes import modalities as m\n"
        "neural.require([m.ImageModel(encoder='image', model='x', images=('{id}.jpg',))])\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")

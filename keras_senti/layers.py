"""Our layers under the name by which they are registered: import this, and Keras can load a model.keras."""

from keras_senti.models.layers import BigramEmbedding, Embedding, MaskedConv1D, ResidualBlock
from keras_senti.models.pooling import AttentionPooling, ConcatPooling, LastPooling, MaxPooling
from keras_senti.models.recurrent import GRU, LSTM

__all__ = [
    "GRU",
    "LSTM",
    "AttentionPooling",
    "BigramEmbedding",
    "ConcatPooling",
    "Embedding",
    "LastPooling",
    "MaskedConv1D",
    "MaxPooling",
    "ResidualBlock",
]
